"""A run over the queue: by due date, each once, faults of one request its own, what was cut off gone on with."""

import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from peft.tuners.tuners_utils import BaseTunerLayer
from sqlalchemy import update

from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import AsuLoraError, KeyFault, TrainingError
from asu_lora.progress import Progress
from asu_lora.requests.forget_text import forget_text
from asu_lora.requests.intake import Details, Files, add, hand_in_again
from asu_lora.requests.key import ENVIRONMENT, new_key
from asu_lora.requests.ledger.ledger import open_ledger
from asu_lora.requests.ledger.tables import texts
from asu_lora.requests.runner.one_request import Outcome
from asu_lora.requests.runner.run import Listener, run
from asu_lora.requests.runner.settings import Places, RunSettings
from asu_lora.requests.runner.workshop import Workshop
from asu_lora.requests.withdrawal import withdraw
from tests.support.adapter_weights import same, weights
from tests.support.tiny_run import FACTS, rows, tiny_settings

QUICK = {"epochs": 1, "batch_size": 2}


class Queue:
    """A store with requests in it, one fact each, and runs over it."""

    def __init__(self, root: Path, base: Path):
        self.root, self.base = root, str(base)
        self.store = AdapterStore(root / "store")
        self.ledger = open_ledger(self.store.root, create=True, actor="tester")

    def add(self, *names: str, due: str = "2999-01-01T00:00:00Z") -> None:
        from asu_lora.requests.key import find_key
        from asu_lora.requests.text_vault import TextVault

        for name in names:
            number = len(self.ledger.requests())
            for file, facts in ((f"{name}.jsonl", FACTS[number % 10 : number % 10 + 1]), ("keep.jsonl", FACTS[-2:])):
                (self.root / file).write_text("\n".join(map(json.dumps, rows(facts))))
            files = Files(str(self.root / f"{name}.jsonl"), str(self.root / "keep.jsonl"))
            add(self.ledger, TextVault(find_key().secret), name, files, Details(due), store=self.store)
            (self.root / f"{name}.jsonl").unlink()
            (self.root / "keep.jsonl").unlink()

    def shop(self, audit=None, **settings) -> Workshop:
        config = tiny_settings(**(QUICK | settings.pop("config", {})))
        return Workshop.open(
            Places(self.store.root, actor="runner"), RunSettings(self.base, config, **settings), audit=audit
        )

    def run(self, audit=None, listener=None, **settings):
        return run(self.shop(audit, **settings), listener=listener)

    def states(self) -> dict[str, str]:
        return {request.id: request.state for request in self.ledger.requests()}

    def events(self, name: str) -> list[str]:
        return [line.event for line in self.ledger.history(name)]


@pytest.fixture
def queue(tmp_path, tiny_base, monkeypatch) -> Queue:
    monkeypatch.setenv(ENVIRONMENT, new_key())
    return Queue(tmp_path, tiny_base)


class StopAt(Listener):
    """Ctrl-C while a request is trained."""

    def __init__(self, stage: str):
        self.stage = stage

    def progress(self):
        class Stopping(Progress):
            def stage(inner, name, total=None):
                if name == self.stage:
                    raise KeyboardInterrupt

        return Stopping()


def counting_audit(seen):
    def audit(task):
        seen.append(task.adapters)
        assert task.request.forget
        return {"worst": 0.25}

    return audit


def test_requests_are_trained_by_due_date_each_once_and_the_faulty_one_alone_fails(queue):
    queue.add("a", "b", "c")
    queue.add("first", due="2500-01-01T00:00:00Z")
    with queue.ledger.database.changing() as connection:
        connection.execute(update(texts).where(texts.c.request == "b").values(sealed=b"0" * 100))
    report = queue.run()
    assert [outcome.request for outcome in report.outcomes] == ["first", "a", "b", "c"]
    assert queue.states() == {"first": "trained", "a": "trained", "b": "failed", "c": "trained"}
    assert "was changed since it was sealed" in queue.ledger.get("b").sentence
    assert queue.store.names() == ["a", "c", "first"] and sorted(report.unaudited) == ["a", "c", "first"]
    line = queue.ledger.history("a", ["trained"])[0]
    assert line.payload["fingerprint"] == queue.store.get("a").manifest.fingerprint
    assert queue.run().outcomes == [] and queue.ledger.verify().whole  # nothing is left, nothing is done again


def test_an_interrupted_request_goes_on_and_ends_as_if_nothing_had_happened(queue, tiny_base):
    queue.add("a")
    with pytest.raises(KeyboardInterrupt):
        queue.run(listener=StopAt("Writing the adapter"), config={"epochs": 2})
    assert queue.states() == {"a": "queued"} and queue.events("a")[-2:] == ["training", "queued"]
    report = queue.run(config={"epochs": 2})
    assert report.outcomes[0].trained and queue.events("a").count("trained") == 1
    whole = Queue(queue.root / "other", tiny_base)
    whole.add("a")
    whole.run(config={"epochs": 2})
    assert same(weights(queue.store.root, "a"), weights(whole.store.root, "a"))


def test_an_adapter_that_a_killed_run_had_stored_is_not_trained_again(queue):
    queue.add("a")
    shop = queue.shop()
    from asu_lora.forgetting.forget import forget

    forget(shop.text("a").request("a"), shop.base, shop.settings.config, name="a", store=queue.store)
    queue.ledger.record("training", "a")  # and killed before it could say so
    before = queue.store.get("a").manifest.fingerprint
    outcome = queue.run().outcomes[0]
    assert (outcome.state, outcome.trained) == ("trained", False)
    assert queue.store.get("a").manifest.fingerprint == before and queue.events("a").count("trained") == 1


def test_somebody_elses_adapter_of_the_same_name_is_left_alone(queue):
    queue.add("a", "b")
    shop = queue.shop()
    from asu_lora.forgetting.forget import forget

    forget(shop.text("b").request("b"), shop.base, shop.settings.config, name="a", store=queue.store)
    before = queue.store.get("a").manifest.fingerprint
    queue.run()
    assert queue.states() == {"a": "failed", "b": "trained"}
    assert "another adapter called a" in queue.ledger.get("a").sentence
    assert queue.store.get("a").manifest.fingerprint == before


def test_a_failed_request_is_trained_once_it_is_handed_in_again(queue):
    queue.add("a")
    shop = queue.shop()

    class Spoiling(Listener):
        def progress(self):
            class At(Progress):
                def advance(inner, amount=1, **figures):
                    if "loss" in figures:
                        student = next(m for m in shop.base.model.modules() if isinstance(m, BaseTunerLayer))
                        student.lora_B["default"].weight.data[0, 0] = float("inf")

            return At()

    run(shop, listener=Spoiling())
    assert queue.states() == {"a": "failed"} and "not finite" in queue.ledger.get("a").sentence
    assert not (queue.store.root / ".runs").exists()
    hand_in_again(queue.ledger, shop.vault, "a")
    queue.run()
    assert queue.states() == {"a": "trained"} and queue.ledger.get("a").attempts == 2


def test_the_wrong_key_ends_a_run_before_anything_is_claimed(queue, monkeypatch):
    queue.add("a")
    monkeypatch.setenv(ENVIRONMENT, new_key())
    with pytest.raises(KeyFault, match="sealed with another key"):
        queue.run()
    assert queue.states() == {"a": "queued"}


def test_a_full_disk_ends_the_run_in_a_sentence_and_the_next_run_goes_on(queue):
    queue.add("a", "b")
    shop = queue.shop()
    shop.base  # noqa: B018
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal_before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (queue.ledger.database.file.stat().st_size + 4096, hard))
    try:
        with pytest.raises(AsuLoraError) as error:
            run(shop)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, signal_before)
    assert "\n" not in str(error.value) and queue.store.names() == []
    assert "failed" not in queue.states().values()
    queue.run()
    assert set(queue.states().values()) == {"trained"} and queue.ledger.verify().whole


def test_the_text_goes_with_the_audit_and_no_word_of_it_is_left_anywhere(queue):
    queue.add("a", "b")
    report = queue.run(counting_audit([]), forget_text=True, re_audit=False)
    assert [o.state for o in report.outcomes] == ["audited"] * 2 and sorted(report.texts_gone) == ["a", "b"]
    words = [word.encode() for name, does in FACTS for word in (name, does)]
    for file in queue.root.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not [word for word in words if word in content], file
    assert {r.text for r in queue.ledger.requests()} == {"text-destroyed"}
    queue.ledger.record("withdrawn", "a", {"adapter": "a"})
    with pytest.raises(AsuLoraError, match="withdrawn; from there it can't become queued|only one that failed"):
        hand_in_again(queue.ledger, queue.shop().vault, "a")


def test_a_text_is_kept_until_the_audit_and_checkpoints_go_with_it(queue):
    queue.add("a")
    queue.run(forget_text=True)  # nothing here audits
    assert queue.ledger.get("a").text == "sealed"
    with pytest.raises(AsuLoraError, match="not audited"):
        forget_text(queue.ledger, queue.store, "a")
    (queue.store.root / ".runs" / "a" / "checkpoint-1").mkdir(parents=True)
    assert forget_text(queue.ledger, queue.store, "a", unaudited=True)
    assert not (queue.store.root / ".runs").exists()


def test_an_audit_that_fails_leaves_the_adapter_trained_and_is_tried_by_the_next_run(queue):
    def failing(task):
        raise TrainingError("The audit of 'Anna Birk' can't be made.")

    queue.add("a", "b")
    report = queue.run(failing)
    assert queue.states() == {"a": "trained", "b": "trained"} and len(report.outcomes) == 2
    assert queue.ledger.history("a", ["audit-failed"])[0].payload == {"sentence": "The audit of '...' can't be made."}
    seen = []
    report = queue.run(counting_audit(seen), re_audit=False)
    assert seen == [("a",), ("b",)] and not any(outcome.trained for outcome in report.outcomes)


def test_earlier_requests_are_audited_again_under_all_adapters_after_others_came_or_went(queue):
    queue.add("a", "b")
    seen = []
    queue.run(counting_audit(seen))
    # b came after a was audited
    assert seen == [("a",), ("b",), ("b", "a")]
    seen.clear()
    queue.run(counting_audit(seen))
    assert seen == []
    queue.add("c")
    report = queue.run(counting_audit(seen))
    assert seen[0] == ("c",) and sorted(seen[1:]) == [("a", "c", "b"), ("b", "c", "a")]
    assert sorted(report.follow_up.re_audited) == ["a", "b"]
    withdraw(queue.ledger, queue.store, "b")
    forget_text(queue.ledger, queue.store, "a")
    seen.clear()
    report = queue.run(counting_audit(seen))
    assert seen == [("a", "c")] and report.follow_up.not_re_audited == {"a": "its text is destroyed"}


def test_every_k_adapters_become_one_and_a_withdrawal_builds_it_anew(queue):
    queue.add("a", "b", "c", "d", "e")
    report = queue.run(consolidate=2)
    assert report.follow_up.combined == {"combined-001": 2, "combined-002": 2}
    assert queue.run(consolidate=2).follow_up.combined == {}
    done = withdraw(queue.ledger, queue.store, "a")
    assert done.adapter == "a" and done.inside == ["combined-001"]
    queue.add("f", "g")
    report = queue.run(consolidate=2)
    held = {line.payload["adapter"]: line.payload["requests"] for line in queue.ledger.consolidated()}
    assert report.follow_up.stale == ["combined-001"]
    assert not any("a" in requests for name, requests in held.items() if name != "combined-001")
    current = [name for name in held if name != "combined-001"]
    assert sorted(r for name in current for r in held[name]) == sorted({r for name in current for r in held[name]})


def test_a_withdrawal_that_was_cut_off_is_finished_by_the_next_run(queue):
    queue.add("a", "b")
    queue.run()
    queue.ledger.record("withdrawn", "a", {"adapter": "a"})  # and killed before the adapter went
    assert queue.run().withdrawn == ["a"]
    assert queue.store.names() == ["b"] and queue.events("a")[-1] == "adapter-removed"
    assert queue.run().withdrawn == []


def test_what_is_withdrawn_while_it_is_trained_is_not_in_the_store_afterwards(queue, monkeypatch):
    queue.add("a", "b")

    class Withdrawing(Listener):
        def progress(self):
            class At(Progress):
                def stage(inner, name, total=None):
                    if name == "Writing the adapter" and queue.states()["a"] == "training":
                        withdraw(queue.ledger, queue.store, "a")

            return At()

    report = queue.run(listener=Withdrawing())
    assert queue.states() == {"a": "withdrawn", "b": "trained"} and queue.store.names() == ["b"]
    assert report.outcomes[0].state == "busy"


def program(queue: Queue, *words: str) -> list[str]:
    """The command, with the tiny run's settings."""
    settings = ["--precision", "fp32", "--device", "cpu", "--epochs", "3", "--batch-size", "1", "--eval-rows", "0"]
    settings += ["--tau", "3", "--rank", "4", "--base", queue.base, "--store", str(queue.store.root), "--no-audit"]
    return [sys.executable, "-m", "asu_lora", "requests", "run", *settings, *words]


def test_a_run_killed_in_the_middle_is_gone_on_with_and_nothing_is_trained_twice(queue):
    queue.add("a", "b", "c")
    with subprocess.Popen(program(queue), stderr=subprocess.PIPE, text=True) as first:
        while not any(state == "trained" for state in queue.states().values()):
            assert first.poll() is None, first.stderr.read()
            time.sleep(0.02)
        while first.poll() is None and "training" not in queue.states().values():
            time.sleep(0.005)
        first.send_signal(signal.SIGKILL)
    assert "training" in queue.states().values()  # it was killed at work
    done = subprocess.run(program(queue), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(queue.states().values()) == {"trained"} and queue.store.names() == ["a", "b", "c"]
    assert all(queue.events(name).count("trained") == 1 for name in "abc") and queue.ledger.verify().whole
    assert "Not audited" in done.stdout


def test_an_outcome_is_told_as_it_ends(queue):
    queue.add("a")
    heard: list[Outcome] = []

    class Hearing(Listener):
        def ended(self, outcome):
            heard.append(outcome)

    queue.run(listener=Hearing())
    assert [(o.request, o.state, o.trained) for o in heard] == [("a", "trained", True)]
