"""Training that ends once the facts are gone: when, after what, and the same however a step is shared out."""

import pytest

from asu_lora.adapters.manifest import read_manifest
from asu_lora.config import ForgetConfig
from asu_lora.forgetting.forget import forget
from asu_lora.training.stop_early import Epoch, StopEarly, may_stop
from tests.support.adapter_weights import same, weights
from tests.support.listener import Listener
from tests.support.tiny_run import tiny_request, tiny_settings


@pytest.mark.parametrize(
    "epochs, stops",
    [
        ([(0.9, 0.1), (0.5, 0.4)], False),  # facts are left
        ([(0.9, 0.1), (0.39, 0.4)], False),  # the retain loss has only risen
        ([(0.9, 0.1), (0.39, 0.4), (0.2, 0.31)], False),  # it comes down, but not far
        ([(0.9, 0.1), (0.39, 0.4), (0.2, 0.29)], True),
        ([(0.9, 0.1), (0.39, 0.4), (0.41, 0.2)], False),  # the facts came back
        ([(0.9, 0.1), (0.39, 0.4), (0.2, 0.2), (0.2, 0.22)], False),  # it rises again
        ([(0.9, 0.1), (0.39, 0.4), (0.2, 0.2), (0.2, 0.205)], True),
        ([(0.9, 0.4), (0.6, 0.2), (0.59, 0.2), (0.6, 0.2)], False),  # what is left falls no more, for two epochs
        ([(0.9, 0.4), (0.6, 0.2), (0.59, 0.2), (0.6, 0.2), (0.6, 0.2)], True),  # for three
        ([(0.9, 0.4), (0.6, 0.2), (0.59, 0.2), (0.6, 0.2), (0.57, 0.2)], False),  # it falls
        ([(0.9, None), (0.41, None)], False),
        ([(0.9, None), (0.39, None)], True),  # nothing is kept: nothing has to settle
    ],
)
def test_training_ends_when_the_facts_are_gone_and_the_retain_loss_has_come_down(epochs, stops):
    assert may_stop([Epoch(*each) for each in epochs]) is stops


def settings(**changes):
    return tiny_settings(**dict(epochs=40, lr=5e-3, stop_early=True) | changes)


def test_a_run_ends_early_says_so_and_goes_on_from_there(base, tmp_path, snapshot):
    heard = Listener()
    result = forget(tiny_request(), base, settings(), name="whole", store=tmp_path, progress=heard)
    training = read_manifest(tmp_path / "whole").training
    stopped = training["stopped"]
    assert stopped["of"] == 90 and stopped["step"] == 3 * stopped["epoch"] < 90
    assert 0 < stopped["forget_kept"] < 0.9 and stopped["retain_loss"] > 0
    # own words get the share of the steps that they would have had: a third of the first phase's
    assert training["steps"] == stopped["step"] + round(stopped["step"] / 3) == len(heard.figures)
    assert any(note.startswith(f"The facts are gone after epoch {stopped['epoch']}") for note in heard.notes)
    assert result.record.training["stopped"] == stopped

    for number, stop_at in enumerate((stopped["step"] - 1, stopped["step"] + 1)):  # in the last epoch, and behind it
        with pytest.raises(KeyboardInterrupt):
            store = tmp_path / f"store-{number}"
            forget(tiny_request(), base, settings(), store=store, progress=Listener(stop_at=stop_at))
        forget(tiny_request(), base, settings(), store=store, resume=True)
        assert read_manifest(store / "tiny").training["stopped"] == stopped
        assert same(weights(tmp_path, "whole"), weights(store, "tiny"))


def test_an_epoch_is_judged_alike_however_its_steps_are_shared_out(base, tmp_path, monkeypatch):
    judged, judge = [], StopEarly.on_epoch_end
    monkeypatch.setattr(
        StopEarly, "on_epoch_end", lambda self, *a, **k: judge(self, *a, **k) or judged.append(self.epochs[-1])
    )
    for number, how in enumerate(({}, {"micro_batch_tokens": 40}, {"batch_size": 1, "grad_accum": 2})):
        # plain gradient descent: Adam would blow rounding up where a gradient is near zero
        config = settings(epochs=2, own_words=0.0, optimizer="sgd", lr=0.3, warmup=0.0, scheduler="constant", **how)
        forget(tiny_request(), base, config, name=f"a{number}", store=tmp_path)
    first, second, *others = judged
    assert first.forget_kept > second.forget_kept and second.retain_loss > first.retain_loss >= 0
    for one, two in zip(others[::2], others[1::2], strict=True):
        assert (one.forget_kept, two.forget_kept) == pytest.approx((first.forget_kept, second.forget_kept), rel=1e-3)
        assert two.retain_loss == pytest.approx(second.retain_loss, rel=1e-2)


def test_a_loss_that_never_sees_the_true_answers_is_not_ended_early(base, tmp_path):
    heard = Listener()
    config = settings(objective="idk", epochs=2)
    forget(tiny_request(2, 2), base, config, store=tmp_path, progress=heard)
    assert "stopped" not in read_manifest(tmp_path / "tiny").training
    assert any("never looks at the true answers" in note for note in heard.notes)


def test_without_it_a_run_is_what_it_was(base, tmp_path):
    """A run that was begun before there was such a setting goes on: its settings' identity is the same."""
    assert "stop_early" not in ForgetConfig().identity() and ForgetConfig(stop_early=True).identity()["stop_early"]
    forget(tiny_request(2, 2), base, settings(stop_early=False, epochs=1), store=tmp_path)
    assert "stopped" not in read_manifest(tmp_path / "tiny").training
