"""Measured interference on the tiny taught base: against transformers' own logits, and who is to blame."""

import math
from dataclasses import fields, replace
from itertools import pairwise

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from asu_lora.adapters.additive import NEUTRAL
from asu_lora.adapters.combine import combine
from asu_lora.adapters.fitted_weights import fitting
from asu_lora.adapters.store import AdapterStore
from asu_lora.config import ForgetConfig
from asu_lora.data.encoding import Encoder
from asu_lora.data.examples import examples_from_rows
from asu_lora.data.request import ForgetRequest
from asu_lora.errors import DataError
from asu_lora.forgetting.forget import forget
from asu_lora.interference.measure import Interference, State, measure
from asu_lora.models import adapter_stack
from asu_lora.models.loading import load_base
from tests.support.lora_folders import save_lora
from tests.support.tiny_base import save_tiny_base
from tests.support.tiny_run import FACTS, rows, tiny_settings

# settings of adapters that add up, where there are such, at the values that do without
ALONE = {name: value for name, value in NEUTRAL.items() if name in {spec.name for spec in fields(ForgetConfig)}}
KEPT = examples_from_rows(rows(FACTS[6:]), "kept")
GONE = {"first": examples_from_rows(rows(FACTS[:2]), "gone"), "second": examples_from_rows(rows(FACTS[2:4]), "gone")}


@pytest.fixture(scope="module")
def base(taught_base):
    return load_base(str(taught_base), "fp32", "cpu")


@pytest.fixture(scope="module")
def store(base, tmp_path_factory):
    """Requests trained alone, one trained on top of the first, and one that changes next to nothing."""
    store = AdapterStore(tmp_path_factory.mktemp("store"))

    def train(name, facts, on_top_of=(), **changes):
        request = ForgetRequest.from_rows(rows(facts), rows(FACTS[8:]), name)
        settings = tiny_settings(**({"epochs": 12, "lr": 3e-3} | ALONE | changes))
        forget(request, base, settings, name=name, store=store, on_top_of=on_top_of)

    train("first", FACTS[:2])
    train("second", FACTS[2:4])
    train("mild", FACTS[4:6], lr=2e-4, seed=3)
    train("aware", FACTS[2:4], on_top_of=[("first", 1.0)])
    return store


def by_hand(base, store, adapters):
    """(KL(base || stack) in nats a token, probability) of the kept rows, a row alone, from whole logits."""
    items = Encoder(base.tokenizer).encode_all(KEPT)

    def logprobs(model):
        with torch.no_grad():
            for item in items:
                ids = torch.tensor([[*item.prompt_ids, *item.answer_ids]])
                yield model(input_ids=ids).logits[0, len(item.prompt_ids) - 1 : -1].double().log_softmax(-1)

    plain = list(logprobs(base.model))
    stack = adapter_stack.load(base, adapters, store)
    found = list(logprobs(stack.model))
    stack.unload()
    kl = torch.cat([(p.exp() * (p - q)).sum(-1) for p, q in zip(plain, found, strict=True)]).mean()
    picked = [q.gather(1, torch.tensor(item.answer_ids)[:, None]).mean() for q, item in zip(found, items, strict=True)]
    return kl.item(), sum(map(math.exp, picked)) / len(picked)


@pytest.fixture(scope="module")
def alone(base, store):
    return measure(base, [("first", 1.0), ("second", 1.0), ("mild", 1.0)], store, KEPT, GONE)


def test_every_state_is_that_of_plain_logits(base, store, alone):
    assert len(alone.singles) == len(alone.pairs) == 3 and alone.base.retain_kl == 0
    for state in [alone.base, *alone.singles, *alone.pairs, alone.total, alone.scaled]:
        kl, probability = by_hand(base, store, state.adapters)
        assert state.retain_kl == pytest.approx(kl, abs=2e-5) and state.retain_probability == pytest.approx(
            probability, abs=1e-4
        )
        assert set(state.forget) == {"first", "second"}
    assert not any(isinstance(module, BaseTunerLayer) for module in base.model.modules())


def test_adapters_trained_alone_do_not_add_up_and_the_pair_is_named(alone):
    assert alone.total.retain_probability < 0.9 < min(state.retain_probability for state in alone.singles)
    assert not alone.adds_up
    assert {name for name, _ in alone.pairs[0].adapters} == {"first", "second"}
    assert all(alone.excess(one) >= alone.excess(other) for one, other in pairwise(alone.pairs))
    assert alone.excess(alone.pairs[0]) > 0.05
    advice = alone.advice()
    assert "'first' with 'second' most of all" in advice and "--on-top-of" in advice and "of their weights" in advice
    assert alone.scaled.retain_probability >= 0.95 * min(state.retain_probability for state in alone.singles)
    # what is bought by lower weights is paid for in forgetting
    assert alone.scaled.forget["first"] > alone.total.forget["first"]


def test_the_weights_alone_predict_the_pair(alone):
    first = alone.overlap.pairs[0]
    assert {first.first, first.second} == {"first", "second"} and first.interferes
    assert first.alignment > 0.5


def test_an_adapter_trained_on_top_of_the_other_adds_up(base, store):
    found = measure(base, [("first", 1.0), ("aware", 1.0)], store, KEPT, GONE)
    assert found.adds_up and found.scaled is None and found.overlap.advice() is None
    assert found.advice().startswith("These adapters add up")
    assert found.total.forget["second"] < found.base.forget["second"] - 0.1


def test_weights_are_those_that_were_given(base, store):
    found = measure(base, [("first", 0.25), ("second", -1.0)], store, KEPT, most=3)
    assert found.singles[0].adapters == (("first", 0.25),)
    stack = adapter_stack.load(base, [("first", 0.25), ("second", -1.0)], store)
    items = Encoder(base.tokenizer).encode_all(KEPT[:1])
    stack.unload()
    assert items and found.total.adapters == (("first", 0.25), ("second", -1.0))
    one = measure(base, [("first", 1.0)], store, KEPT)
    assert one.pairs == [] and one.total == one.singles[0] and one.adds_up


def test_nothing_to_keep_is_refused(base, store):
    with pytest.raises(DataError, match="no row to keep"):
        measure(base, [("first", 1.0)], store, [])


@pytest.fixture(scope="module")
def settled(base, tmp_path_factory):
    """Three requests, each left where half of its answers' probability is left; and their forget sets."""
    store, gone = AdapterStore(tmp_path_factory.mktemp("settled")), {}
    for name, facts in (("first", FACTS[:2]), ("second", FACTS[2:4]), ("third", FACTS[4:6])):
        request = ForgetRequest.from_rows(rows(facts), rows(FACTS[8:]), name)
        settings = tiny_settings(epochs=40, lr=5e-3, retain_dose=2.0, forget_dose=2.25, settle_at=0.3)
        forget(request, base, settings, name=name, store=store)
        gone[name] = request.forget
    return store, gone


def test_at_fitted_weights_the_sum_forgets_as_each_adapter_alone(base, settled):
    store, gone = settled
    plain = measure(base, [(name, 1.0) for name in gone], store, KEPT, gone)
    alone = {name: state.forget[name] for name, state in zip(gone, plain.singles, strict=True)}
    print([s.forget for s in (plain.base, *plain.singles, plain.total)], plain.fitted)
    pressed = [math.log(alone[name] / plain.total.forget[name]) / 2 for name in gone]
    assert plain.pressure == pytest.approx(sum(pressed) / 3) and plain.pressure > 0.05
    fitted = measure(base, list(zip(gone, plain.fitted, strict=True)), store, KEPT, gone)

    def apart(found):
        return sum(abs(math.log(found.total.forget[name] / alone[name])) for name in gone)

    assert apart(fitted) < apart(plain) / 2
    assert fitted.total.retain_kl < plain.total.retain_kl and fitted.fitted is None


def test_a_combined_adapter_beside_another_is_fitted_by_its_parts(base, settled):
    store, gone = settled
    pair = fitting([(store.resolve(name), 1.0) for name in ("first", "second")])
    with store.stage("both") as folder:
        combine([store.resolve("first"), store.resolve("second")], pair, folder, None, "both")
    plain = measure(base, [("both", 1.0), ("third", 1.0)], store, KEPT, gone)
    assert plain.held == {"both": pytest.approx(sum(pair)), "third": 1.0} and max(plain.fitted) < 1
    alone = {name: min(state.forget[name] for state in plain.singles) for name in gone}
    fitted = measure(base, list(zip(("both", "third"), plain.fitted, strict=True)), store, KEPT, gone)

    def apart(found):
        return sum(abs(math.log(found.total.forget[name] / alone[name])) for name in gone)

    print(plain.pressure, plain.fitted, apart(plain), apart(fitted))
    assert apart(fitted) < apart(plain) / 2 and fitted.total.retain_kl < plain.total.retain_kl


def test_pressure_is_that_of_one_request_however_many_an_adapter_holds():
    def state(name, forgotten):
        return State(((name, 1.0),) if name else (), 0.0, 1.0, {"x": forgotten})

    singles = [state("one", 0.2), state("sum", 0.8)]
    found = Interference(None, state("", 0.9), singles, [], state("all", 0.1))
    assert found.pressure == pytest.approx(math.log(2))
    assert replace(found, held={"one": 1.0, "sum": 2.5}).pressure == pytest.approx(math.log(2) / 2.5)


def test_a_first_adapter_of_no_weight_and_nothing_left_of_an_answer_are_no_trouble():
    def state(kept, forgotten, *adapters):
        return State(adapters, 1 - kept, kept, {"x": forgotten})

    singles = [state(1.0, 0.9, ("one", 0.0)), state(0.9, 0.0, ("two", 1.0))]
    total, scaled = state(0.5, 0.1, ("one", 0.0), ("two", 1.0)), state(0.9, 0.4, ("one", 0.0), ("two", 0.6))
    found = Interference(None, state(1.0, 0.9), singles, [], total, scaled)
    assert "all at 0.6 of their weights" in found.advice()
    assert found.pressure is None


def test_an_adapter_on_the_output_head_is_measured_with_it(tmp_path):
    """Two on the head, one of them on the layers too: their states alone, read by the base's head, tell nothing."""
    untied = load_base(str(save_tiny_base(tmp_path / "base", tie_word_embeddings=False)), "fp32", "cpu")
    targets = (["lm_head"], ["lm_head", "q_proj"])
    folders = [
        save_lora(untied.source.path, tmp_path / f"head{at}", at, size=0.2, target_modules=modules)
        for at, modules in enumerate(targets)
    ]
    found = measure(untied, [(folder, 1.0) for folder in folders], AdapterStore(tmp_path), KEPT, GONE)
    for state, adapters in (*zip(found.singles, folders, strict=True), (found.total, None)):
        active = [(folder, 1.0) for folder in ([adapters] if adapters else folders)]
        kl, probability = by_hand(untied, tmp_path, active)
        assert state.retain_kl == pytest.approx(kl, rel=1e-3) and kl > 0.01
        assert state.retain_probability == pytest.approx(probability, rel=1e-3)
        assert state.forget["first"] != found.base.forget["first"]
