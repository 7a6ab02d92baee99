"""The command that `adapters remove` prints for an adapter on top trains it with the settings that it was trained with."""

import json
import shlex

import pytest
from click.testing import CliRunner

from asu_lora.adapters.store import AdapterStore
from asu_lora.cli import main
from asu_lora.cli.adapters.again import retrain_command
from tests.support.tiny_run import rows

PLAIN = "--epochs 1 --rank 2 --eval-rows 0 --device cpu --precision fp32 --no-adds-up".split()
ODD = {
    "asu": "--tau 3 --smooth-layers all --adapter-layers all --target-modules q_proj,v_proj --phrasings 1 "
    "--no-keep-speaking --system-prompt Short!",
    "simnpo": "--objective simnpo --loss-settings beta=3 --adapter-layers 0 --orthogonal",
}


@pytest.fixture
def place(tmp_path):
    for name, some in (("first", rows()[:2]), ("second", rows()[2:4]), ("keep", rows()[-3:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, some)))
    return tmp_path


def forget(*words):
    result = CliRunner().invoke(main, ["forget", *map(str, words)])
    assert result.exit_code == 0, result.output


def made(store, name):
    """What the manifest says of how it was made: all but measurements."""
    manifest = store.get(name).manifest
    training = {k: v for k, v in manifest.training.items() if k not in ("train_loss", "train_seconds")}
    details = {k: v for k, v in manifest.method.details.items() if k != "forgetting_curve"}
    return manifest.method.model_dump(exclude={"details", "tau_curve"}), details, manifest.lora, training


@pytest.mark.parametrize("objective", sorted(ODD))
def test_the_printed_command_trains_with_the_same_settings(taught_base, place, objective):
    store, stack = AdapterStore(place / "store"), ["--base", taught_base, "--store", place / "store"]
    files = {"FILE": place / "second.jsonl", "RETAIN": place / "keep.jsonl"}
    forget(place / "first.jsonl", "--name", "one", "--tau", 3, "--smooth-layers", "all", *stack, *PLAIN)
    odd = [*shlex.split(ODD[objective]), "--on-top-of", "one"]
    forget(files["FILE"], "--retain", files["RETAIN"], "--name", "top", *stack, *PLAIN[:-1], *odd)
    printed = retrain_command(store.get("top"), ["another"], store.root)
    assert printed.endswith("--on-top-of one")
    words = [files.get(word, word) for word in shlex.split(printed)[2:]]
    forget(*words, "--eval-rows", 0, "--device", "cpu")
    assert made(store, "top-again") == made(store, "top")
    assert store.get("top-again").manifest.request.retain_rows == 3
