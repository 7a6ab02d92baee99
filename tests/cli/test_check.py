"""asu-lora adapters check, and the line that combine and merge print."""

import json
import shutil

import pytest
from click.testing import CliRunner

from asu_lora.cli import main
from tests.support.lora_folders import give_manifest, save_lora
from tests.support.tiny_run import FACTS, rows


@pytest.fixture(scope="module")
def store(taught_base, tmp_path_factory):
    """A store of two random adapters, which share nothing, and one that is all but the first."""
    store = tmp_path_factory.mktemp("check") / "store"
    for name, seed in (("anna", 1), ("ben", 2), ("again", 1)):
        give_manifest(save_lora(taught_base, store / name, seed, size=0.08), taught_base)
    return store


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def files(tmp_path):
    found = []
    for name, facts in (("keep", FACTS[6:]), ("forget", FACTS[:3])):
        found.append(tmp_path / f"{name}.jsonl")
        found[-1].write_text("\n".join(map(json.dumps, rows(facts))))
    return found


def test_by_weights_alone(store):
    result = run("adapters", "check", "anna", "ben", "again:0.5", "--store", store)
    assert result.exit_code == 0, result.output
    assert "anna + again" in result.stdout and "interferes" in result.stdout
    assert "all but the same update" in result.stdout
    found = json.loads(run("adapters", "check", "anna", "ben", "--store", store, "--json").stdout)
    [pair] = found["pairs"]
    assert pair["interferes"] is False and abs(pair["cosine"]) < 0.05 and found["advice"] is None
    assert "speak against nothing" in run("adapters", "check", "anna", "ben", "--store", store).stdout


def test_measured(store, taught_base, files):
    keep, gone = files
    words = [
        *("adapters", "check", "anna", "again", "ben:0.1", "--store", store, "--retain", keep, "--forget", gone),
        *("--base", taught_base, "--precision", "fp32", "--device", "cpu", "--questions", "3"),
    ]
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert "retain KL" in result.stdout and "forget prob." in result.stdout and "do not add up" in result.stdout
    found = json.loads(run(*words, "--json").stdout)
    assert found["adds_up"] is False and len(found["pairs"]) == 3
    assert {name for name, _ in found["pairs"][0]["adapters"]} == {"anna", "again"}
    assert "Anna" not in json.dumps(found)


def test_combine_and_merge_warn_in_one_line(store, taught_base, tmp_path):
    result = run("adapters", "combine", "anna", "again", "--name", "both", "--store", store)
    assert result.exit_code == 0
    [warning] = [line for line in result.stderr.splitlines() if line.startswith("Warning:")]
    assert "'anna' and 'again'" in warning
    merged = run(
        *("merge", "--base", taught_base, "-a", "anna", "-a", "again", "--store", store, "--out", tmp_path / "out"),
        *("--precision", "fp32"),
    )
    assert merged.exit_code == 0 and "'anna' and 'again'" in merged.stderr
    for quiet in (
        run("adapters", "combine", "anna", "ben", "--name", "apart", "--store", store),
        run("merge", "--base", taught_base, "-a", "anna", "--store", store, "--out", tmp_path / "one"),
    ):
        assert quiet.exit_code == 0 and "Warning" not in quiet.stderr


def test_an_adapter_that_changes_nothing_is_named(store, taught_base, tmp_path):
    give_manifest(save_lora(taught_base, tmp_path / "store" / "idle", size=0.0), taught_base)
    shutil.copytree(store / "anna", tmp_path / "store" / "anna")
    here, said = ("--store", tmp_path / "store"), "Warning: the adapter 'idle' changes nothing"
    out = ("--base", taught_base, "--precision", "fp32", "--out")
    assert said in run("adapters", "check", "idle", *here).stdout
    assert said in run("adapters", "combine", "idle", "anna", "--name", "both", *here).stderr
    merged = run("merge", "-a", "idle", *out, tmp_path / "out", *here)
    assert merged.exit_code == 0 and merged.stderr.count("Warning") == 1 and said in merged.stderr
    against = run("merge", "-a", "anna", "-a", "anna:-1", *out, tmp_path / "back", *here)
    assert against.exit_code == 0 and "undo each other" in against.stderr
    assert json.loads(run("adapters", "check", "anna", *here, "--json").stdout)["changes_nothing"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nobody"], "nobody"),
        (["anna:much"], "'much' is no number"),
        (["anna", "--retain", "nowhere.jsonl"], "There is no file nowhere.jsonl"),
    ],
)
def test_bad_input_is_one_sentence(store, words, said):
    result = run("adapters", "check", *words, "--store", store)
    assert result.exit_code == 2 and said in result.stderr and "Traceback" not in result.output


def test_weights_that_were_measured_are_not_said_to_be_those_of_plain_names(capsys):
    from asu_lora.cli.adapters.check import show_fitted

    show_fitted(["anna", "ben"], [0.9, 0.8])
    assert "Served together they act at anna:0.9 ben:0.8" in capsys.readouterr().out
    show_fitted(["anna", "ben"], [0.9, 0.8], 0.3)
    said = capsys.readouterr().out
    assert "they act at" not in said and "loses 0.300 nats" in said
    assert "type anna:0.9 ben:0.8" in said and "reckon with what their updates share" in said
