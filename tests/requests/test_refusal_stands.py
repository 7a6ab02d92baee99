"""An adapter that an audit refused stays refused until another audit has judged it, however often it is queued again."""

import pytest

from asu_lora.errors import LedgerError, TrainingError
from asu_lora.requests.deployment import deploy, look_at
from asu_lora.requests.forget_text import forget_text
from asu_lora.requests.ledger.states import TEXT_SEALED
from asu_lora.requests.runner.audit_policy import AuditPolicy
from asu_lora.requests.runner.behind import behind
from asu_lora.requests.runner.run import run
from tests.support.request_queue import finds, retry

STRICT = AuditPolicy(fail_over=0.1)


def cannot(task):
    raise TrainingError("The audit can't be made.")


@pytest.fixture
def refused(queue):
    queue.add("weak", "well")
    queue.run(finds(weak=0.4), policy=STRICT)
    retry(queue, "weak")
    return queue


@pytest.mark.parametrize("step", [None, cannot], ids=["a run without audits", "an audit that fails"])
def test_what_nobody_judged_anew_stays_refused(refused, step, tmp_path):
    made = refused.store.get("weak").manifest.created
    shop = refused.shop(step, consolidate=2, results=f"file://{tmp_path / 'published'}")
    report = run(shop)
    assert refused.states()["weak"] == "trained" and refused.store.get("weak").manifest.created == made
    assert "40% came back" in refused.ledger.get("weak").sentence and report.follow_up.combined == {}
    if step is None:
        assert "40% came back" in report.outcomes[0].sentence and shop.results.names() == ["well"]
    with pytest.raises(LedgerError, match="which is refused: .*40% came back"):
        deploy(refused.ledger, look_at(refused.ledger, refused.store, ["weak"]))
    with pytest.raises(LedgerError, match="needed to train it"):
        forget_text(refused.ledger, refused.store, "weak", unaudited=True)
    assert refused.ledger.get("weak").text == TEXT_SEALED and behind(refused.ledger) == []

    report = refused.run(finds(), policy=STRICT, consolidate=2)
    assert refused.states()["weak"] == "audited" and refused.ledger.get("weak").sentence is None
    assert report.follow_up.re_audited == ["well", "weak"] and report.follow_up.combined == {"combined-001": 2}
    assert refused.ledger.verify().whole


def test_the_same_adapter_trained_once_more_is_refused_still_and_another_is_not(refused):
    refused.store.remove("weak")
    refused.run()
    assert "40% came back" in refused.ledger.get("weak").sentence

    refused.run(finds(weak=0.4), policy=STRICT)
    retry(refused, "weak")
    refused.run(config={"lr": 3e-3})
    assert refused.states()["weak"] == "trained" and refused.ledger.get("weak").sentence is None
