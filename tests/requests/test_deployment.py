"""What is served together is one set: its line, what it refuses, and that lines of single artefacts stay readable."""

import json
import re
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from asu_lora.adapters.manifest import MethodRecord, write_manifest
from asu_lora.adapters.store import AdapterStore
from asu_lora.cli import main
from asu_lora.errors import LedgerError
from asu_lora.report.queue import read_queue
from asu_lora.requests.deployment import artefacts_of, deploy, look_at, served_in
from asu_lora.requests.ledger.ledger import open_ledger
from asu_lora.requests.runner.combining import groups, ungrouped
from asu_lora.requests.withdrawal import withdraw
from tests.support.adapter_folders import add, manifest_for, on, write_lora
from tests.support.request_commands import call

TRAINED = ("queued", "training", "trained")


def combine(store, name, parts, seed, weights=None):
    """A folder that says it is the sum of its parts."""
    details = {"sources": [on(store, part, (weights or {}).get(part, 1.0)).model_dump() for part in parts]}
    with store.stage(name) as folder:
        write_lora(folder, seed)
        write_manifest(folder, manifest_for(name, method=MethodRecord(objective="combined", details=details)))


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Requests a to e, trained; a and b in one combined adapter, c and d in another; e alone; f waits."""
    monkeypatch.setenv("ASU_LORA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "200")
    store = AdapterStore(tmp_path / "store")
    ledger = open_ledger(store.root, create=True)
    for seed, name in enumerate("abcdef"):
        own = add(store, name, seed=seed).fingerprint
        ledger.record("received", name, {"due": "2999"})
        for event in TRAINED if name != "f" else ():
            ledger.record(event, name, {"adapter": name} | ({"fingerprint": own} if event == "trained" else {}))
    for seed, (name, parts) in enumerate({"one": "ab", "two": "cd", "all": "abcde"}.items()):
        combine(store, name, parts, seed=20 + seed)
    return store


def states(store):
    return {request.id: request.state for request in open_ledger(store.root).requests()}


def test_a_set_is_one_line_and_each_request_in_it_is_deployed(store):
    ledger = open_ledger(store.root)
    done = deploy(ledger, look_at(ledger, store, ["one", "two", "e"]), "the clinic")
    assert [(each.name, each.requests) for each in done.artefacts] == [
        ("one", ["a", "b"]), ("two", ["c", "d"]), ("e", ["e"]),
    ]  # fmt: skip
    (line,) = ledger.served()
    assert line.payload["name"] == "one, two, e" and line.payload["requests"] == list("abcde")
    hashes = [each.hash for each in done.artefacts]
    assert [told["hash"] for told in line.payload["artefacts"]] == hashes and len(set(hashes)) == 3
    assert line.payload["hash"] not in hashes
    assert states(store) == {**dict.fromkeys("abcde", "deployed"), "f": "received"}
    assert ledger.history("c")[-1].payload == {"artefact": "two", "hash": hashes[1], "beside": ["one", "e"]}
    assert ledger.verify().whole
    deploy(ledger, look_at(ledger, store, ["e", "two", "one"]))
    assert ledger.served()[-1].payload["hash"] == line.payload["hash"]  # of the set, however it was named
    assert deploy(ledger, look_at(ledger, store, ["two"])).missing == ["a", "b", "e"]


def test_a_single_artefact_is_written_as_before_and_such_lines_are_read(store):
    ledger = open_ledger(store.root)
    done = deploy(ledger, look_at(ledger, store, ["one"]), "the clinic")
    assert ledger.served()[0].payload == {
        "name": "one", "kind": "adapter", "hash": done.artefacts[0].hash, "requests": ["a", "b"], "where": "the clinic",
    }  # fmt: skip
    assert artefacts_of(ledger.served()[0].payload) == done.artefacts
    assert ledger.history("a")[-1].payload == {"artefact": "one", "hash": done.artefacts[0].hash}
    assert deploy(ledger, look_at(ledger, store, ["two", "e"])).missing == ["a", "b"]
    assert [(each.name, len(each.artefacts)) for each in read_queue(store).served] == [("one", 1), ("two, e", 2)]
    assert ledger.verify().whole


def test_a_set_with_a_request_twice_or_withdrawn_or_untrained_leaves_no_line(store):
    ledger = open_ledger(store.root)
    withdraw(ledger, store, "c")
    lines = ledger.head().lines
    for words, said in (
        (("one", "b"), "The request b is in one and b: served together it would act 2 times"),
        (("one", "one"), "The request a is in one and one"),
        (("one", "two"), "two holds the request c, which is withdrawn"),
        (("one", "f"), "f holds the request f, which is received"),
        (("one", "nothing"), "There is no adapter nothing"),
        (("one", "e", "-r", "d"), "Nothing tells in which of one and e the request d is"),
        (("one", "e", "--all-trained"), "Nothing tells in which of one and e the request d is"),
    ):
        told = call("deploy", *words, code=2).stderr
        assert said in told and told.count("\n") == 1
    assert ledger.head().lines == lines


def test_one_merged_folder_beside_adapters_holds_the_requests_that_are_named(store, tmp_path):
    for name in ("merged", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(name.encode())
    done = json.loads(call("deploy", "one", tmp_path / "merged", "--all-trained", "--json").stdout)
    assert [each["requests"] for each in done["artefacts"]] == [["a", "b"], ["c", "d", "e"]] and "artefact" not in done
    told = call("deploy", tmp_path / "other", tmp_path / "merged", "-r", "a", code=2).stderr
    assert "in which of other and merged the request a is" in told
    assert "which requests are in merged" in call("deploy", "one", tmp_path / "merged", code=2).stderr


def test_what_is_printed_says_the_set(store, tmp_path):
    told = call("deploy", "one", "two", "e", "--where", "clinic").stdout
    assert "one, two and e are served together, with 5 requests: a, b, c, d, e." in told
    assert re.findall(r"SHA-256 of (\w+): [0-9a-f]{64}", told) == ["one", "two", "e"]
    assert "in two, together with one, e, since" in call("show", "c").stdout
    served = json.loads(call("show", "c", "--json").stdout)["served"]
    assert served["artefact"]["name"] == "two" and served["beside"] == ["one", "e"] and served["where"] == "clinic"
    log = call("log").stdout
    assert "name one, two, e" in log and "{" not in log
    page = CliRunner().invoke(main, ["report", "--out", str(tmp_path / "page.html")])
    assert page.exit_code == 0, page.output
    html = (tmp_path / "page.html").read_text()
    assert "3, served together" in html and "<dd>two (adapter)</dd>" in html and "<dd>2: c, d</dd>" in html
    assert open_ledger(store.root).served()[0].payload["artefacts"][1]["hash"] in html
    assert withdraw(open_ledger(store.root), store, "c").inside == ["all", "two"]
    assert "this set doesn't: c, d." in call("deploy", "one", "e").stderr
    assert "no more: what was deployed last doesn't hold it" in call("show", "d").stdout
    assert served_in(open_ledger(store.root), "d") is None


def test_an_adapter_is_deployed_by_what_it_holds_and_not_by_its_name(store, tmp_path):
    """What was taken off, replaced or never in it is not served by it, whatever it is called."""
    ledger = open_ledger(store.root)
    combine(store, "less-b", "ab", seed=40, weights={"b": -1.0})
    assert look_at(ledger, store, ["less-b"])[0].requests == ["a"]
    (tmp_path / "nothing").mkdir()
    store.remove("a")
    add(store, "a", seed=99)
    for words, said in (
        (("a",), "a holds another adapter of the request a than it was trained to last"),
        (("e", "-r", "d"), "e holds e, and not d: an adapter tells by itself which requests are in it"),
        (("two", "--all-trained"), "two holds c, d, and not a"),
        ((str(tmp_path / "nothing"), "-r", "c"), "is empty: nothing of it can be served"),
    ):
        told = call("deploy", *words, code=2).stderr
        assert said in told and told.count("\n") == 1, told
    for event in ("failed", "queued", "training", "trained"):
        ledger.record(event, "a", {"adapter": "a", "fingerprint": store.get("a").fingerprint})
    assert deploy(ledger, look_at(ledger, store, ["a"])).requests == ["a"]
    with pytest.raises(LedgerError, match="one holds another adapter of the request a"):
        look_at(ledger, store, ["one"])


def test_a_sum_with_an_adapter_that_was_trained_anew_is_no_current_one(store):
    ledger = open_ledger(store.root)
    for name, parts in (("one", "ab"), ("two", "cd")):
        told = {"adapter": name, "requests": list(parts), "replaces": [], "fingerprint": store.get(name).fingerprint}
        ledger.record("consolidated", None, told)
    shop = SimpleNamespace(store=store, ledger=ledger)
    assert groups(shop) == ({"one": ["a", "b"], "two": ["c", "d"]}, [])
    ledger.record("failed", "a", {"sentence": "90 % came back", "refused": "a"})
    assert groups(shop) == ({"two": ["c", "d"]}, ["one"])
    again = add(store, "a", seed=99, replace=True).fingerprint
    for event in ("queued", "training"):
        ledger.record(event, "a", {})
    ledger.record("trained", "a", {"adapter": "a", "fingerprint": again})
    assert groups(shop) == ({"two": ["c", "d"]}, ["one"])
    assert [request.id for request in ungrouped(shop)] == ["a", "b", "e"]


def test_a_withdrawal_names_each_adapter_that_holds_it_once_whoever_made_it(store):
    ledger = open_ledger(store.root)
    for number, name in enumerate("xy"):
        ledger.record("received", name, {"due": "2999"})
        made = add(store, name, seed=40 + number).fingerprint
        for event in TRAINED:
            ledger.record(event, name, {"adapter": name, "fingerprint": made})
    store.import_(store.root / "x", "copy")
    combine(store, "combined-001", "xy", seed=50)
    combine(store, "by-hand", "xe", seed=51)
    told = {"adapter": "combined-001", "requests": ["x", "y"], "replaces": [], "fingerprint": "50"}
    ledger.record("consolidated", None, told)
    deploy(ledger, look_at(ledger, store, ["combined-001"]))
    said = call("withdraw", "x", "-y").stderr
    assert "Still inside: combined-001, by-hand, copy. Build and deploy these anew without it." in said
    assert withdraw(ledger, store, "y").inside == ["combined-001"]


def test_another_adapter_of_its_name_in_a_combination_is_none_of_a_withdrawn_request(store):
    ledger = open_ledger(store.root)
    ledger.record("received", "x", {"due": "2999"})
    made = add(store, "x", seed=60).fingerprint
    combine(store, "later", "xe", seed=61)
    for event in TRAINED:
        ledger.record(event, "x", {"adapter": "x", "fingerprint": made[::-1]})
    assert withdraw(ledger, store, "x").inside == []
