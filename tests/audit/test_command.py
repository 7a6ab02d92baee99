"""asu-lora audit: a table, JSON, exit codes, and one sentence for what can't be done."""

import json
import re
import shutil

import pytest
from click.testing import CliRunner

from asu_lora.adapters.store import AdapterStore
from asu_lora.cli import main
from tests.support.lora_folders import give_manifest, save_lora
from tests.support.planted import FORGET, KEPT, STRANGERS
from tests.support.tiny_run import rows


@pytest.fixture(scope="module")
def words(taught_base, tmp_path_factory):
    """What every audit of the only adapter is typed with."""
    folder = tmp_path_factory.mktemp("command")
    for name, facts in (("forget", FORGET), ("keep", KEPT), ("floor", STRANGERS)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows(facts))))
    give_manifest(save_lora(taught_base, folder / "store" / "weak", 1, size=0.001), taught_base)
    return [
        *("--forget", folder / "forget.jsonl", "--retain", folder / "keep.jsonl", "--floor", folder / "floor.jsonl"),
        *("--base", taught_base, "--store", folder / "store", "--precision", "fp32", "--device", "cpu", "--quick"),
    ]


def run(*typed):
    return CliRunner().invoke(main, [str(word) for word in typed])


def test_a_leak_is_shown_and_fails_where_a_limit_is_set(words):
    result = run("audit", "weak", *words, "--attacks", "direct,prefix", "--fail-over", "0.1")
    assert result.exit_code == 3, result.output
    assert "recovered" in result.stdout and "extraction strength" in result.stdout
    assert "Not tried: sampling" in result.stdout
    assert re.search(r"The attack (direct|prefix) recovered \d+%, more than --fail-over 0\.1 allows", result.stderr)
    passed = run("audit", "weak", *words, "--attacks", "direct,membership", "--fail-over", "1.5")
    assert passed.exit_code == 0
    assert re.search(r"--fail-over 1\.5 passes: at most \d+% came back, in 1 of 1", passed.stderr)
    assert "apart" in passed.stdout and "another question: AUC" in passed.stdout
    assert run("audit", "weak", *words, "--attacks", "direct").exit_code == 0


def test_json_is_what_is_written(words, tmp_path):
    result = run("audit", "run", "weak", *words, "--attacks", "direct", "--json", "--out", tmp_path / "a.json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found == json.loads((tmp_path / "a.json").read_text())
    assert found["audited"] == "adapter" and found["attacks"][0]["readings"][0]["ceiling"]["value"] > 0.9


@pytest.mark.parametrize("asked", [["nix"], ["--control", "nix"]], ids=["audited", "control"])
def test_an_adapter_that_is_not_there_is_said_before_a_base_is_loaded(tmp_path, asked):
    (tmp_path / "forget.jsonl").write_text("\n".join(map(json.dumps, rows(FORGET))))
    asked = [*asked, "--forget", tmp_path / "forget.jsonl", "--store", tmp_path / "store", "--base", tmp_path / "none"]
    result = run("audit", "run", *asked)
    assert result.exit_code == 2
    assert re.search(r"There is no adapter nix: .*is empty; --store names another", result.stderr)


def test_attacks_are_listed_without_anything_else():
    result = run("audit", "run", "--list")
    assert result.exit_code == 0 and "worst_of_asking" in result.stdout and "relearn" in result.stdout
    as_json = json.loads(run("audit", "--list", "--json").stdout)
    assert {"attack", "kind", "tries"} == set(as_json[0]) and "relearn" in [each["attack"] for each in as_json]


@pytest.mark.parametrize("at", [1, 3, 5], ids=["forget", "retain", "floor"])
def test_the_result_never_replaces_a_file_that_is_read(words, at):
    before = words[at].read_bytes()
    refused = run("audit", "weak", *words, "--attacks", "direct", "--out", words[at])
    assert refused.exit_code == 2 and "is read by this command" in refused.stderr
    assert words[at].read_bytes() == before


def test_an_audit_without_a_request_asks_for_one():
    asked = run("audit", "run", "weak")
    assert asked.exit_code == 2 and "Missing option '--forget'" in asked.stderr


def test_help_is_short_and_help_all_has_every_option_with_or_without_run():
    short, full = (run("audit", "run", flag).stdout for flag in ("--help", "--help-all"))
    for option in main.get_command(None, "audit").get_command(None, "run").params:
        assert option.param_type_name == "argument" or f"{option.opts[0]} " in full
    assert "--insisting" not in short and "--seed" not in short and "--fail-over" in short and "--floor " in short
    assert "audit run --help-all" in " ".join(short.split())
    assert run("audit", "--help-all").stdout == full


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--attacks", "shouting"], "There is no attack 'shouting'"),
        (["--budget", "soon"], "'soon' is no time"),
        (["--attacks", "membership", "--fail-over", "0.1"], "limits the knowledge"),
        (["--floor", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--merged", "somewhere"], "not both"),
        (["--insisting", "nowhere.csv"], "nowhere.csv"),
        (["--retain-log", "nothing.jsonl"], "nothing.jsonl"),
        (["--records", "/proc/records"], "can't be changed"),
    ],
)
def test_what_can_t_be_done_is_one_sentence(words, more, says):
    result = run("audit", "weak", *words, *more)
    assert result.exit_code == 2 and says in result.stderr
    assert "Traceback" not in result.output and not result.stdout


def test_an_adapter_that_is_not_there_is_one_sentence(words):
    result = run("audit", "strong", *words)
    assert result.exit_code == 2 and "strong" in result.stderr and "weak" in result.stderr


def in_a_store_of_its_own(words, folder):
    """The adapter as it was before any audit."""
    shared, base = (words[words.index(option) + 1] for option in ("--store", "--base"))
    store = shutil.copytree(shared, folder / "store")
    for earlier in store.glob("weak/audit*.json"):
        earlier.unlink()
    give_manifest(store / "weak", base)
    return store, [store if word == shared else word for word in words]


def test_an_audit_of_another_weight_or_of_less_does_not_take_the_place_of_the_one_that_is_certified(words, tmp_path):
    store, words = in_a_store_of_its_own(words, tmp_path)
    file, apart = store / "weak" / "audit.json", store / "weak" / "audit.apart.json"
    assert run("audit", "weak:0", *words, "--attacks", "direct").exit_code == 0
    assert apart.is_file() and not file.exists()
    assert run("audit", "weak", *words, "--attacks", "direct,prefix").exit_code == 0
    whole = file.read_bytes()
    for asked, says in (("weak:0", "weak at weight 0"), ("weak", "also tried prefix")):
        result = run("audit", asked, *words, "--attacks", "direct")
        assert result.exit_code == 0 and says in result.stderr and str(apart) in result.stderr.replace("\n", "")
        assert file.read_bytes() == whole and json.loads(apart.read_text())["weights"] == [float(asked == "weak")]
    AdapterStore(store).rename("weak", "other")
    AdapterStore(store).rename("other", "weak")
    assert run("audit", "weak:0.5", *words, "--attacks", "direct").exit_code == 0
    assert AdapterStore(store).verify("weak").ok
    certified = run("audit", "certify", "weak", "--store", store)
    assert certified.exit_code == 0, certified.output
    assert run("audit", "weak", *words, "--attacks", "direct", "--replace").exit_code == 0
    assert file.read_bytes() != whole and AdapterStore(store).verify("weak").ok


def test_an_audit_of_another_weight_on_file_is_not_certified(words, tmp_path):
    store, words = in_a_store_of_its_own(words, tmp_path)
    assert run("audit", "weak:0", *words, "--attacks", "direct", "--out", store / "weak" / "audit.json").exit_code == 0
    refused = run("audit", "certify", "weak", "--store", store)
    assert refused.exit_code == 2 and "weak at weight 0" in refused.stderr and "anew" in refused.stderr
