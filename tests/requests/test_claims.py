"""Claims: one winner, taken over from the dead, refused to those who were taken over."""

import subprocess
import sys

import pytest

from asu_lora.requests.ledger import claims
from asu_lora.requests.ledger.claims import (
    LostClaim,
    Worker,
    at_work,
    claim_duty,
    claim_next,
    claim_one,
    extend,
    record,
    release,
    release_of,
)
from asu_lora.requests.ledger.ledger import open_ledger
from tests.support.root import ROOT

STATES = ("queued", "training")


@pytest.fixture
def queue(ledger):
    with ledger.changing() as change:
        for request, due in (("late", "2999"), ("soon", "2998"), ("same", "2998")):
            change.append("received", request, {"due": f"{due}-01-01T00:00:00Z"})
            change.append("queued", request, {"rows": 1})
    return ledger


def test_what_is_due_first_is_claimed_first_and_by_one_alone(queue):
    here = Worker.here()
    taken = [claim_next(queue, here, STATES) for _ in range(4)]
    assert [claim and claim.request.id for claim in taken] == ["same", "soon", "late", None]
    assert claim_one(queue, here, "soon", STATES) is None
    assert set(at_work(queue)) == {"same", "soon", "late"}
    release(queue, taken[1])
    assert claim_next(queue, here, STATES, without=["soon"]) is None
    assert claim_next(queue, here, STATES).request.id == "soon"


def test_a_claim_of_a_process_that_is_no_more_is_free_at_once(queue):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = Worker.here()
    assert claim_next(queue, Worker("dead", here.machine, dead.pid, here.began), STATES).request.id == "same"
    assert at_work(queue) == {}
    assert claim_next(queue, here, STATES).request.id == "same"


def test_a_process_with_the_same_number_on_another_machine_keeps_its_claim_until_it_runs_out(queue, monkeypatch):
    far = Worker("far", "another machine", 1, 0.0)
    held = claim_next(queue, far, STATES)
    assert claim_next(queue, Worker.here(), STATES).request.id == "soon"
    monkeypatch.setattr(claims, "LEASE_SECONDS", -1.0)
    extend(queue, held)
    monkeypatch.undo()
    assert claim_next(queue, Worker.here(), STATES).request.id == "same"
    for late in (lambda: extend(queue, held), lambda: record(queue, held, "training")):
        with pytest.raises(LostClaim, match="same is in other hands"):
            late()
    assert queue.get("same").state == "queued"


def test_a_clock_that_is_set_back_holds_no_request_of_a_machine_that_is_gone(queue, monkeypatch):
    far, now = Worker("far", "another machine", 1, 0.0), queue.database.now
    monkeypatch.setattr(queue.database, "now", lambda connection: now(connection) + 4 * 365 * 86400)
    lost, mine = claim_next(queue, far, STATES), claim_next(queue, Worker.here(), STATES)
    monkeypatch.undo()
    assert set(at_work(queue)) == {mine.request.id}, "whoever lives here is still at it"
    assert claim_next(queue, Worker.here(), STATES).request.id == lost.request.id == "same"


def test_what_its_holder_writes_and_lets_go_is_one_step(queue):
    claim = claim_next(queue, Worker.here(), STATES)
    record(queue, claim, "training")
    record(queue, claim, "failed", {"sentence": "No."}, release=True)
    assert queue.get("same").sentence == "No." and at_work(queue) == {}


def test_a_dead_runner_is_let_go_of_by_name_and_no_other(queue):
    held = claim_next(queue, Worker("far", "another machine", 1, 0.0), STATES)
    release_of(queue, "same", "somebody else")
    extend(queue, held)
    release_of(queue, "same", "far")
    assert claim_one(queue, Worker.here(), "same", STATES) is not None


def test_work_of_no_request_is_claimed_like_it(queue):
    duty = claim_duty(queue, Worker.here(), "*combining")
    assert claim_duty(queue, Worker.here(), "*combining") is None
    release(queue, duty)
    assert claim_duty(queue, Worker.here(), "*combining") is not None


RUNNER = """
import sys, time
from asu_lora.requests.ledger.claims import Worker, claim_next, record
from asu_lora.requests.ledger.ledger import open_ledger
store, address, name = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
ledger, here = open_ledger(store, address or None, actor=name, create=True), Worker.here(name)
for number in range(6):
    with ledger.changing() as change:
        change.append("received", f"{name}-{number}", {"due": "2999-01-01T00:00:00Z"})
        change.append("queued", f"{name}-{number}")
print("added", flush=True)
sys.stdin.readline()
while claim := claim_next(ledger, here, ("queued", "training")):
    record(ledger, claim, "training", {"runner": name})
    time.sleep(0.1)  # as training would: else who has just written is the quickest to write again
    record(ledger, claim, "trained", {"adapter": claim.request.id}, release=True)
"""


def test_four_runners_at_once_make_one_ledger_do_nothing_twice_and_leave_nothing(address, tmp_path):
    running = [
        subprocess.Popen(
            [sys.executable, "-c", RUNNER, str(tmp_path), address or "", f"runner{i}"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for i in range(4)
    ]  # fmt: skip
    for stage in ("ready\n", "added\n"):
        assert [process.stdout.readline() for process in running] == [stage] * 4
        for process in running:
            process.stdin.write("go\n")
            process.stdin.flush()
    assert [process.wait() for process in running] == [0] * 4
    for process in running:
        process.stdin.close()
        process.stdout.close()
    ledger = open_ledger(tmp_path, address)
    begun, done = ledger.history(events=["training"]), ledger.history(events=["trained"])
    assert sorted(line.request for line in begun) == sorted(line.request for line in done)
    assert len({line.request for line in done}) == len(done) == 24
    assert len({line.payload["runner"] for line in begun}) > 1  # they did work side by side
    assert ledger.verify().whole and ledger.head().lines == 96


def test_what_has_no_text_any_more_is_claimed_by_nobody(queue):
    with queue.changing() as change:
        change.append("training", "same")
        change.append("trained", "same", {"adapter": "same"})
        change.append("text-destroyed", "same")
    states = (*STATES, "trained")
    assert claim_one(queue, Worker.here(), "same", states) is None
    assert claim_next(queue, Worker.here(), states).request.id == "soon"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a process's start is told by the clock")
def test_a_clock_that_is_set_makes_no_living_runner_look_dead(queue, monkeypatch):
    import psutil

    held = claim_next(queue, Worker.here(), STATES)
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: 1_000_000.0)
    assert claim_one(queue, Worker.here(), held.request.id, STATES) is None
    assert held.request.id in at_work(queue)
