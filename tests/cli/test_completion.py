"""The tab key: tickets, attacks, and adapters wherever a command takes their names."""

import subprocess
import sys

import pytest
from click.shell_completion import ShellComplete

from asu_lora.cli import main
from tests.support.adapter_folders import write_lora


def offered(words, begun=""):
    shell = ShellComplete(main, {}, "asu-lora", "_ASU_LORA_COMPLETE")
    return [item.value for item in shell.get_completions(words, begun)]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("ASU_LORA_STORE", "ASU_LORA_DATABASE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("harry", "harriet", "ron"):
        write_lora(tmp_path / "adapters" / name)
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ["audit"],
        ["audit", "run"],
        ["audit", "ron"],
        ["audit", "run", "ron", "--control"],
        ["audit", "certify"],
        ["audit", "certify", "ron"],
        ["requests", "deploy"],
    ],
    ids=" ".join,
)
def test_adapters_are_offered(place, words):
    assert [name for name in offered(words, "har") if not name.startswith("-")] == ["harriet", "harry"]


def test_a_command_of_audit_is_offered_beside_adapters_and_an_adapter_takes_the_options_of_run(place):
    assert offered(["audit"], "r") == ["run", "ron"]
    assert "--floor-base" in offered(["audit", "ron"], "--floor")


def test_attacks_and_kinds_are_offered_behind_every_comma(place):
    from asu_lora.audit.registry import ATTACKS, KINDS

    assert set(offered(["audit", "run", "--attacks"])) == {*ATTACKS, *KINDS}
    assert offered(["audit", "ron", "--attacks"], "direct,pre") == ["direct,precision", "direct,prefix"]
    assert offered(["audit", "ron", "--attacks"], "direct,di") == ["direct,differencing"]


def test_attacks_are_offered_without_the_heavy_imports(place):
    script = (
        "import sys\nfrom click.shell_completion import ShellComplete\nfrom asu_lora.cli import main\n"
        "shell = ShellComplete(main, {}, 'asu-lora', 'X')\n"
        "assert shell.get_completions(['audit', 'run', '--attacks'], 'pre')\n"
        "print(*(name for name in ('torch', 'transformers') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


TAKES_TICKETS = [["show"], ["withdraw"], ["retry"], ["log"], ["forget-text"], ["deploy", "ron", "--request"]]


@pytest.mark.parametrize("words", TAKES_TICKETS, ids=" ".join)
def test_tickets_are_offered(place, words):
    from asu_lora.requests.ledger.ledger import open_ledger

    assert offered(["requests", *words], "T") == []  # no ledger, and none is made
    assert not (place / "adapters" / ".requests").exists()
    ledger = open_ledger("adapters", create=True)
    for ticket in ("T-1", "T-2", "other"):
        ledger.record("received", ticket, {"due": "2027-01-01T00:00:00Z"})
    assert offered(["requests", *words], "T") == ["T-1", "T-2"]
    assert offered(["requests", words[0], "--store", str(place / "none"), *words[1:]], "T") == []


def test_a_ledger_that_can_t_be_read_offers_nothing(place):
    (place / "adapters" / ".requests").mkdir()
    assert offered(["requests", "show"], "T") == [] and not list((place / "adapters" / ".requests").iterdir())
    (place / "adapters" / ".requests" / "ledger.sqlite").write_bytes(b"no database")
    assert offered(["requests", "show"], "T") == []
    assert offered(["requests", "show", "--database", "nonsense"], "T") == []
