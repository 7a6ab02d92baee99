"""``tau auto`` on a tiny base that has learned its facts by heart, so that its attention matters."""

import pytest
import torch

from asu_lora.data.examples import question_answer
from asu_lora.data.token_classes import token_classes
from asu_lora.errors import SettingError
from asu_lora.models.hidden_states import answer_logprobs
from asu_lora.models.loading import load_base
from asu_lora.models.output_head import FrozenHead
from asu_lora.teacher import tau as calibration
from asu_lora.teacher.tau import choose_tau
from asu_lora.teacher.teacher_states import teacher_states
from tests.support.tiny_run import encoded_facts, rows


@pytest.fixture(scope="module")
def facts(base, taught_base):
    items = encoded_facts(taught_base)
    return items, [
        token_classes(item, question_answer(**row), base.tokenizer) for item, row in zip(items, rows(), strict=True)
    ]


def chosen(base, facts, layers=None, progress=None, **settings):
    return choose_tau(base, *facts, layers, progress=progress, **settings)


def mean_nll(base, items, tau, layers=None):
    head, states = FrozenHead(base.model), teacher_states(base.model, items, base.tokenizer.pad_token_id, tau, layers)
    return -torch.cat(answer_logprobs(head, items, states)).mean().item()


def test_tau_is_where_the_curve_crosses_the_threshold(base, facts):
    heard = []
    choice = chosen(base, facts, progress=heard.append)
    taus, rises = zip(*((point.tau, point.factual_rise) for point in choice.curve), strict=True)
    assert choice.curve[0].tau == 1.0 and choice.curve[0].factual_rise == 0.0
    assert list(taus) == sorted(set(taus)) and list(rises) == sorted(rises) and len(taus) > 2
    assert heard == choice.curve[1:]
    low, high = choice.curve[-2:]
    assert 1 < low.tau <= choice.tau <= high.tau
    assert str(choice.tau)[:4] in choice.reason


def test_the_teacher_at_tau_has_lost_what_the_base_knew(base, facts):
    items, _ = facts
    choice = chosen(base, facts)
    assert mean_nll(base, items, 1.0) < 0.1
    assert mean_nll(base, items, choice.tau) > 1.0


def test_interpolation_hits_the_threshold(base, facts, monkeypatch):
    """With coarse and with fine steps the same tau, within what a straight line between two points allows."""
    monkeypatch.setattr(calibration, "WORDS_STAND", 100.0)
    monkeypatch.setattr(calibration, "STEP", 1.02)
    fine = chosen(base, facts)
    monkeypatch.setattr(calibration, "STEP", 1.3)
    coarse = chosen(base, facts)
    assert len(coarse.curve) < len(fine.curve)
    assert coarse.tau == pytest.approx(fine.tau, rel=0.05)
    low, high = coarse.curve[-2:]
    assert low.factual_rise < calibration.FACTS_GONE <= high.factual_rise
    share = (coarse.tau - low.tau) / (high.tau - low.tau)
    rise = low.factual_rise + share * (high.factual_rise - low.factual_rise)
    assert rise == pytest.approx(calibration.FACTS_GONE, abs=0.02)


def test_where_nothing_else_takes_the_facts_the_teacher_is_hotter(base, facts, monkeypatch):
    monkeypatch.setattr(calibration, "WORDS_STAND", 100.0)
    assert calibration.FACTS_GONE_ALONE > calibration.FACTS_GONE
    assert chosen(base, facts, facts_gone=calibration.FACTS_GONE_ALONE).tau > chosen(base, facts).tau


def test_function_words_hold_tau_back(base, facts, monkeypatch):
    free = chosen(base, facts)
    monkeypatch.setattr(calibration, "WORDS_STAND", 0.1)
    held = chosen(base, facts)
    assert 1 < held.tau < free.tau and "function words stand" in held.reason


def test_the_same_choice_every_time(base, facts):
    torch.manual_seed(1)
    one = chosen(base, facts)
    torch.manual_seed(2)
    assert chosen(base, facts) == one


def test_only_the_layers_that_are_smoothed_count(base, facts):
    """The tiny base looks the facts up in its first layer: the second has no hold on them, and all are both."""
    everywhere = chosen(base, facts)
    assert chosen(base, facts, layers=[0, 1]) == everywhere
    assert chosen(base, facts, layers=[0]).tau >= everywhere.tau
    with pytest.raises(SettingError, match="still knows what should be forgotten"):
        chosen(base, facts, layers=[1])


def test_only_some_rows_of_a_large_request_are_looked_at(base, facts, monkeypatch):
    seen = []
    real = calibration.teacher_states
    monkeypatch.setattr(
        calibration, "teacher_states", lambda m, items, *a, **k: seen.append(len(items)) or real(m, items, *a, **k)
    )
    monkeypatch.setattr(calibration, "MOST_ROWS", 5)
    chosen(base, facts)
    assert set(seen) == {4}  # every third of twelve


def test_attention_without_a_hold_is_refused(taught_base, facts):
    """Nothing that attention gathers comes out of it: no tau makes such a base forget."""
    base = load_base(str(taught_base), "fp32", "cpu")
    for layer in base.model.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
    with pytest.raises(SettingError, match="still knows what should be forgotten"):
        chosen(base, facts)


def test_a_base_that_never_knew_the_facts_is_said_not_to(tiny_base, facts):
    with pytest.raises(
        SettingError, match=r"hardly knows what should be forgotten: of \d+ factual tokens 0 are likely"
    ):
        chosen(load_base(str(tiny_base), "fp32", "cpu"), facts)


def test_the_base_is_as_before(base, facts):
    ids = torch.arange(40, 60)[None]
    with torch.no_grad():
        before = base.model(input_ids=ids).logits
        chosen(base, facts)
        assert torch.equal(base.model(input_ids=ids).logits, before)
