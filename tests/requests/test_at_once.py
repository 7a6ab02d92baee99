"""A queue that trains several requests at once: the ledger hears of each as if it had been trained alone."""

import time

import pytest
from sqlalchemy import update

from asu_lora.errors import SettingError
from asu_lora.requests.ledger import claims
from asu_lora.requests.ledger.claims import Worker
from asu_lora.requests.ledger.states import QUEUED, TRAINED, TRAINING
from asu_lora.requests.ledger.tables import texts
from asu_lora.requests.runner.run import Engine, Listener, run
from tests.support.request_queue import counting_audit


def at_once(queue, count, audit=None, listener=None, **settings):
    return run(queue.shop(audit, **settings), Engine(at_once=count), listener)


def test_requests_are_trained_at_once_audited_each_and_the_faulty_one_alone_fails(queue):
    queue.add("a", "b", "c", "d", "e")
    with queue.ledger.database.changing() as connection:
        connection.execute(update(texts).where(texts.c.request == "b").values(sealed=b"0" * 100))
    seen = []
    report = at_once(queue, 3, audit=counting_audit(seen))
    assert [outcome.request for outcome in report.outcomes] == ["a", "b", "c", "d", "e"]
    assert queue.states() == {"a": "audited", "b": "failed", "c": "audited", "d": "audited", "e": "audited"}
    company = {name: queue.store.get(name).manifest.training["at_once"] for name in queue.store.names()}
    assert company == {"a": 2, "c": 2, "d": 2, "e": 2}
    for name in "acde":
        assert queue.events(name).count("training") == queue.events(name).count("trained") == 1
        told = queue.ledger.history(name, ["trained"])[0].payload
        assert told["fingerprint"] == queue.store.get(name).manifest.fingerprint
    assert at_once(queue, 3).outcomes == [] and queue.ledger.verify().whole


def test_an_interrupted_run_queues_them_all_again(queue):
    class Stop(Listener):
        def progress(self):
            from asu_lora.progress import Progress

            class Stopping(Progress):
                def stage(self, name, total=None):
                    if name == "Answers of all, after":
                        raise KeyboardInterrupt

            return Stopping()

    queue.add("a", "b", "c")
    with pytest.raises(KeyboardInterrupt):
        at_once(queue, 2, listener=Stop())
    assert queue.states() == {"a": "queued", "b": "queued", "c": "queued"}
    report = at_once(queue, 2, most=2)
    assert [outcome.request for outcome in report.outcomes] == ["a", "b"] and queue.states()["c"] == "queued"


def test_settings_that_can_not_be_trained_at_once_are_trained_one_after_the_other(queue):
    queue.add("a", "b")
    report = at_once(queue, 2, config={"dropout": 0.1})
    assert [outcome.state for outcome in report.outcomes] == ["trained", "trained"]
    assert "at_once" not in queue.store.get("a").manifest.training


def test_it_belongs_to_the_local_engine():
    with pytest.raises(SettingError, match="--at-once belongs to --engine local"):
        Engine("ray", at_once=2)
    with pytest.raises(SettingError, match="at_once is 0"):
        Engine(at_once=0)


def test_those_that_wait_for_their_turn_are_held_while_the_audit_of_another_takes_long(queue, monkeypatch):
    monkeypatch.setattr(claims, "LEASE_SECONDS", 1.0)
    far, taken = Worker("far", "another machine", 1, 0.0), []

    def audit(task):
        if task.adapters == ("a",):
            time.sleep(2.5)
            taken.append(claims.claim_next(queue.ledger, far, (QUEUED, TRAINING, TRAINED)))
        return {"worst": 0.0}

    queue.add("a", "b", "c")
    report = at_once(queue, 3, audit=audit, re_audit=False)
    assert taken == [None], "another runner would do what this one is at"
    assert [outcome.state for outcome in report.outcomes] == ["audited"] * 3
