"""asu-lora adapters combine: into the store, with every module's error, or one sentence."""

import json
import shutil

import pytest

from asu_lora.adapters.combine import combine
from tests.support.lora_folders import give_manifest

WEIGHTS = [1.0, 0.5, -0.3]


def run(*arguments):
    from click.testing import CliRunner

    from asu_lora.cli import main

    return CliRunner().invoke(main, ["adapters", "combine", *map(str, arguments)])


@pytest.fixture
def store(three, tiny_base, tmp_path):
    from asu_lora.adapters.store import AdapterStore

    store = AdapterStore(tmp_path / "store")
    for folder in three:
        copy = shutil.copytree(folder, tmp_path / "work" / folder.name)
        store.import_(give_manifest(copy, tiny_base), folder.name)
    return store


def test_command_combines_into_the_store(store, three, tmp_path):
    done = run("a", "b:0.5", "c:-0.3", "--name", "abc", "--rank", 3, "--store", store.root, "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    expected = combine(three, WEIGHTS, tmp_path / "again", rank=3)
    assert said["relative_error"] == pytest.approx(expected.relative_error, rel=1e-6)
    assert [source["weight"] for source in said["sources"]] == WEIGHTS
    assert store.get("abc").state == "ready"
    assert store.get("abc").manifest.name == "abc"
    assert store.verify("abc", None).ok


def test_command_prints_every_modules_error(store):
    done = run("a", "b", "--name", "ab", "--rank", 2, "--store", store.root)
    assert done.exit_code == 0, done.output
    for module in store.get("b").adapter_config["target_modules"]:
        assert f"{module}" in done.output
    assert "relative error of 0." in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a", "nobody"], "no adapter nobody"),
        (["a", "b:much"], "'much' is no number"),
        (["a", "b:0"], "weight 0.0"),
        (["a", "b", "--rank", "0"], "0 is not in the range"),
    ],
)
def test_command_says_what_is_wrong_and_stores_nothing(store, arguments, said):
    done = run(*arguments, "--name", "new", "--store", store.root)
    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert store.names() == ["a", "b", "c"]


def test_command_takes_no_name_twice(store):
    done = run("a", "b", "--name", "c", "--store", store.root)
    assert done.exit_code == 2
    assert "already has an adapter c" in done.stderr
    assert store.names() == ["a", "b", "c"]
