"""What a stack says of adapters whose ground is missing, in the library and in the commands."""

import json
import shutil

import pytest

from asu_lora.adapters.combine import combine
from asu_lora.errors import AdapterError, AsuLoraError
from asu_lora.forgetting.forget import forget
from asu_lora.models import adapter_stack as stack
from asu_lora.models.loading import load_base
from tests.support.tiny_base import save_tiny_base
from tests.support.tiny_run import rows, tiny_request, tiny_settings


def test_a_ground_of_other_weights_or_none_is_refused(base, store, tmp_path):
    other = load_base(str(save_tiny_base(tmp_path / "other", seed=5)), "fp32", "cpu")
    with pytest.raises(AdapterError, match="fingerprint doesn't match"):
        forget(tiny_request(2, 2), other, tiny_settings(), store=tmp_path, on_top_of=[store.root / "a"])
    for unknown in ("nobody", "a:much"):
        with pytest.raises(AsuLoraError):
            forget(tiny_request(2, 2), base, tiny_settings(), store=store, on_top_of=[unknown])
    assert not [path for path in tmp_path.iterdir() if path.name not in ("other", ".lock")]


@pytest.mark.parametrize(
    ("adapters", "missing"),
    [
        (["a", "b:0.5", "c"], None),
        (["c", "b:0.5", "a"], None),
        (["a", "b:0.5", "c:0.3"], None),
        (["c"], "a, b:0.5"),
        (["a", "b", "c"], "b:0.5"),
        (["a", "b:0.5"], None),
        (["ab", "c"], None),
    ],
)
def test_a_stack_without_the_ground_says_so(base, store, tmp_path, adapters, missing):
    if "ab" in adapters:
        combine([store.root / "a", store.root / "b"], [1.0, 0.5], tmp_path / "ab")
    folders = stack.adapter_folders([tmp_path / "ab" if name == "ab" else name for name in adapters], store)
    notes = stack.missing_ground(folders)
    assert len(notes) == bool(missing)
    if missing:
        lacking = "b:-0.5" if "b" in adapters else "b:0.5"  # what makes b:1 the b:0.5 of the training
        assert f"trained on top of {missing}," in notes[0] and f"--adapter {lacking}." in notes[0]


def test_the_commands_say_it_too(taught_base, store, tmp_path):
    from click.testing import CliRunner

    from asu_lora.cli import main

    root = shutil.copytree(store.root, tmp_path / "store")
    removed = CliRunner().invoke(main, ["adapters", "remove", "a", "--yes", "--store", str(root)])
    assert removed.exit_code == 0 and "trained on top of a: c" in removed.stderr
    assert f"asu-lora forget FILE --base {taught_base} --store {root} --retain RETAIN --name c-again" in removed.stderr
    assert "--forget-coeff 1 --retain-coeff 1.5" in removed.stderr
    assert "--on-top-of b:0.5" in removed.stderr and "--on-top-of a\n" not in removed.stderr
    retrained = next(line for line in removed.stderr.splitlines() if "c-again" in line)
    assert "--epochs" in retrained and "--adds-up" not in retrained  # on top of others it is no default
    merged = ["merge", "--base", str(taught_base), "--store", str(root), "-a", "c", "--out", str(tmp_path / "m")]
    assert "Warning: The adapter 'c' was trained on top of a, b:0.5" in CliRunner().invoke(main, merged).stderr
    asked = CliRunner().invoke(
        main,
        [
            "ask",
            "Who?",
            "--base",
            str(taught_base),
            "--store",
            str(root),
            "-a",
            "c",
            "--precision",
            "fp32",
            "--device",
            "cpu",
        ],
    )
    assert asked.exit_code == 0 and "Warning: The adapter 'c' was trained on top of a, b:0.5" in asked.stderr
    request_file = tmp_path / "r.jsonl"
    request_file.write_text(json.dumps(rows()[0]) + "\n")
    words = ["forget", str(request_file), "--base", str(taught_base), "--store", str(root), "--on-top-of", "b:0.5"]
    assert "b:0.5" in CliRunner().invoke(main, [*words, "--dry-run"]).stdout
    unknown = CliRunner().invoke(main, [*words, "--on-top-of", "nobody", "--dry-run"])
    assert unknown.exit_code == 2 and "no adapter nobody" in unknown.stderr
