"""What an interrupted run left is gone on with by whoever comes next, or begun anew where it can't be."""

import json

import pytest

from asu_lora.requests.runner.run import Engine, run
from tests.support.request_queue import Interrupting


def left_by_another_machine(queue, *names: str) -> None:
    """Runs that were killed at work, on a machine whose precision is another."""
    with pytest.raises(KeyboardInterrupt):
        run(queue.shop(), Engine(at_once=len(names)), Interrupting("Writing the adapter"))
    for name in names:
        queue.ledger.record("training", name, queue.ledger.history(name, ["training"])[-1].payload)
        file = queue.store.root / ".runs" / name / "run.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"precision": "bf16"}))


@pytest.mark.parametrize("names", ["a", "ab"])
def test_what_another_machine_left_that_can_not_be_gone_on_with_is_trained_anew(queue, names):
    queue.add(*names)
    left_by_another_machine(queue, *names)
    report = run(queue.shop(), Engine(at_once=len(names)))
    assert queue.states() == dict.fromkeys(names, "trained"), [outcome.sentence for outcome in report.outcomes]
    assert not (queue.store.root / ".runs").exists() and queue.ledger.verify().whole


def test_an_interruption_of_several_is_called_one(queue):
    queue.add("a", "b")
    with pytest.raises(KeyboardInterrupt):
        run(queue.shop(), Engine(at_once=2), Interrupting("Writing the adapter"))
    assert [queue.ledger.history(name)[-1].payload for name in "ab"] == [{"why": "interrupted"}] * 2
    run(queue.shop(), Engine(at_once=2))
    assert all(queue.ledger.history(name, ["training"])[-1].payload["resumed"] for name in "ab")
