"""A run over the queue: by due date, each once, faults of one request its own, what was cut off gone on with."""

import gc
import resource
import signal
import subprocess
import sys
import time

import pytest
from accelerate import PartialState
from peft.tuners.tuners_utils import BaseTunerLayer
from sqlalchemy import update

from asu_lora.config import ForgetConfig
from asu_lora.errors import AsuLoraError, KeyFault
from asu_lora.forgetting.run_lock import run_lock
from asu_lora.progress import Progress
from asu_lora.requests.intake import hand_in_again
from asu_lora.requests.key import ENVIRONMENT, new_key
from asu_lora.requests.ledger.tables import texts
from asu_lora.requests.runner.one_request import Outcome
from asu_lora.requests.runner.run import Engine, Listener, run
from asu_lora.requests.runner.settings import Places, RunSettings
from asu_lora.requests.runner.workshop import Workshop
from asu_lora.requests.withdrawal import withdraw
from asu_lora.training.kept_directions import InputMoments
from tests.support.adapter_weights import same, weights
from tests.support.request_queue import Interrupting, Queue


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


@pytest.mark.parametrize("at_once", [1, 2])
def test_what_requests_keep_alike_is_read_once_a_run(queue, monkeypatch, at_once):
    read: list[str] = []
    real = InputMoments.read
    monkeypatch.setattr(InputMoments, "read", lambda *a: read.append("directions") or real(*a))
    queue.add("a", "b", "c")
    report = run(queue.shop(config={"keep_off": 0.5}), Engine(at_once=at_once))
    assert [outcome.state for outcome in report.outcomes] == ["trained"] * 3
    assert len({queue.store.get(name).manifest.request.retain_rows for name in "abc"}) == 1
    assert read == ["directions"]


def test_an_interrupted_request_goes_on_and_ends_as_if_nothing_had_happened(queue, tiny_base):
    queue.add("a")
    with pytest.raises(KeyboardInterrupt):
        queue.run(listener=Interrupting("Writing the adapter"), config={"epochs": 2})
    assert queue.states() == {"a": "queued"} and queue.events("a")[-2:] == ["training", "queued"]
    report = queue.run(config={"epochs": 2})
    assert report.outcomes[0].trained and queue.events("a").count("trained") == 1
    assert queue.ledger.history("a", ["training"])[-1].payload["resumed"], "its checkpoints were there"
    whole = Queue(queue.root / "other", tiny_base)
    whole.add("a")
    whole.run(config={"epochs": 2})
    assert same(weights(queue.store.root, "a"), weights(whole.store.root, "a"))


def test_an_adapter_that_a_killed_run_had_stored_is_not_trained_again(queue):
    queue.add("a")
    shop = queue.shop()
    from asu_lora.forgetting.forget import forget

    forget(shop.text("a").request("a"), shop.base, shop.settings.config, name="a", store=queue.store)
    queue.ledger.record("training", "a")  # and killed before it could say so, or remove its checkpoints
    (queue.store.root / ".runs" / "a" / "checkpoint-1").mkdir(parents=True)
    before = queue.store.get("a").manifest.fingerprint
    outcome = queue.run().outcomes[0]
    assert (outcome.state, outcome.trained) == ("trained", False)
    assert queue.store.get("a").manifest.fingerprint == before and queue.events("a").count("trained") == 1
    assert not (queue.store.root / ".runs").exists()


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
    assert not queue.ledger.history("a", ["training"])[-1].payload["resumed"]


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


def test_the_most_requests_of_a_run_are_those_that_it_worked_on(queue):
    queue.add("a", "b", "c")
    with run_lock(queue.store.root / ".runs", "a", PartialState()):  # a runner that was taken for dead still trains it
        report = queue.run(most=1)
    assert [(outcome.request, outcome.state) for outcome in report.outcomes] == [("a", "busy"), ("b", "trained")]


SAME = {"precision": "fp32", "device": "cpu", "epochs": 3.0, "batch_size": 1, "eval_rows": 0, "tau": 3.0, "rank": 4}


def program(queue: Queue) -> list[str]:
    """The command, with the settings above."""
    settings = [word for name, value in SAME.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    places = ["--base", queue.base, "--store", str(queue.store.root), "--no-audit"]
    return [sys.executable, "-m", "asu_lora", "requests", "run", *settings, *places]


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
    places = Places(queue.store.root, actor="another runner")
    run(Workshop.open(places, RunSettings(queue.base, ForgetConfig(**SAME))))
    assert set(queue.states().values()) == {"trained"} and queue.store.names() == ["a", "b", "c"]
    assert all(queue.events(name).count("trained") == 1 for name in "abc") and queue.ledger.verify().whole


def test_an_outcome_is_told_as_it_ends(queue):
    queue.add("a")
    heard: list[Outcome] = []

    class Hearing(Listener):
        def ended(self, outcome):
            heard.append(outcome)
            assert gc.get_freeze_count()  # collections leave out what was loaded for good

    gc.unfreeze()
    queue.run(listener=Hearing())
    assert not gc.get_freeze_count()
    gc.freeze()
    queue.run()
    assert gc.get_freeze_count()  # a program that froze its heap itself finds it so
    assert [(o.request, o.state, o.trained) for o in heard] == [("a", "trained", True)]
