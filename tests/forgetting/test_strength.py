"""How strong a trained adapter is left: read off its own curve of forgetting."""

import json

import pytest
import torch
from safetensors.torch import load_file

from asu_lora.adapters.forgetting_curve import enough
from asu_lora.audit.rounding import to_nf4
from asu_lora.data.encoding import encoder_for
from asu_lora.data.row_format import RowFormat
from asu_lora.evaluation.set_scores import example_probabilities
from asu_lora.forgetting.forget import forget
from asu_lora.forgetting.strength import STRONGER
from asu_lora.models.adapter_stack import load
from asu_lora.models.decoder import base_model
from asu_lora.models.hidden_states import answer_logprobs, hidden_states
from asu_lora.training.rounded_maps import merged_and_rounded
from tests.support.listener import Listener
from tests.support.tiny_run import tiny_request, tiny_settings

DOSES = dict(forget_dose=2.25, epochs=20, lr=5e-3)


def weights(run):
    return load_file(run.path / "adapter_model.safetensors")


def curve_of(run):
    return json.loads((run.path / "manifest.json").read_text())["method"]["details"].get("forgetting_curve")


def probability(base, run, weight, store):
    stack = load(base, [(run.path, weight)], store)
    items = stack.encoder().encode_all(tiny_request().forget)
    states = hidden_states(base_model(stack.model), items, base.pad_id)
    values = example_probabilities(items, answer_logprobs(base.head, items, states))
    stack.unload()
    return sum(values) / len(values)


def test_the_lowest_strength_that_is_enough():
    strengths, found = [0.4, 0.8, 1.2], [0.8, 0.4, 0.1]
    assert enough(strengths, found, 0.4) == 0.8
    assert enough(strengths, found, 0.2) == pytest.approx(1.0)  # half way between the logarithms of 0.4 and 0.1
    assert enough(strengths, found, 0.05) == 1.2  # never more than was trained
    assert enough(strengths, found, 0.9) == 0.4
    assert enough(strengths, [0.8, 0.3, 0.35], 0.3) == 0.8
    assert enough(strengths, [0.5, 0.0, 0.0], 0.0) == 0.8


@pytest.fixture(scope="module")
def strongest(base, tmp_path_factory):
    """The same run as in the tests, left in the middle of its doses; nothing is measured."""
    return forget(tiny_request(), base, tiny_settings(**DOSES), name="middle", store=tmp_path_factory.mktemp("store"))


def test_an_adapter_is_left_where_its_forget_answers_have_the_share_that_is_asked_for(base, tmp_path, strongest):
    heard = Listener()
    run = forget(tiny_request(), base, tiny_settings(**DOSES, settle_at=0.75), store=tmp_path, progress=heard)
    before = probability(base, run, 0.0, tmp_path)
    assert probability(base, run, 1.0, tmp_path) == pytest.approx(0.75 * before, abs=0.04)
    assert probability(base, strongest, 1.0, tmp_path) < 0.7 * before
    assert "How strong the adapter must be" in heard.stages
    assert curve_of(strongest) is None


def test_the_curve_in_the_manifest_is_that_of_the_adapter_as_it_is_stored(base, tmp_path):
    run = forget(tiny_request(), base, tiny_settings(**DOSES, settle_at=0.75), store=tmp_path)
    curve = curve_of(run)
    assert [point["weight"] for point in curve] == sorted(point["weight"] for point in curve) and len(curve) == 5
    for point in curve:
        assert probability(base, run, point["weight"], tmp_path) == pytest.approx(point["forget_probability"], abs=2e-3)
    without, *found = [point["forget_probability"] for point in curve]
    assert enough([point["weight"] for point in curve[1:]], found, 0.75 * without) == pytest.approx(1, abs=1e-3)


def test_an_adapter_that_is_nowhere_weak_enough_ends_in_the_middle_of_its_doses(base, tmp_path, strongest):
    run = forget(tiny_request(), base, tiny_settings(**DOSES, settle_at=0.001), store=tmp_path)
    one, two = weights(run), weights(strongest)
    assert all((one[key] - two[key]).abs().max() < 1e-6 for key in one)


def test_the_middle_is_that_of_the_doses(base, tmp_path, monkeypatch):
    settings = tiny_settings(forget_dose=2.25, epochs=1)
    run = forget(tiny_request(), base, settings, name="settled", store=tmp_path)
    monkeypatch.setattr("asu_lora.forgetting.own_inputs.settle", lambda *_: None)
    plain = forget(tiny_request(), base, settings, name="plain", store=tmp_path)
    one, two = weights(run), weights(plain)
    factor = {True: 1.5, False: 1.0}
    assert all((one[key] - two[key] * factor["lora_B" in key]).abs().max() < 1e-6 for key in one)


def rounded_probability(base, run, store, strength=1.0):
    """Of the forget answers, with base and adapter merged and rounded to NF4: by the audit's own rounding."""
    from asu_lora.adapters.lora_folder import read_adapter

    lora, items = read_adapter(run.path), None
    before = {}
    for name, module in base.model.named_modules():
        if name in lora.modules:
            a, b = lora.factors(name)
            before[name] = module.weight.detach().clone()
            module.weight.data = to_nf4(module.weight.detach() + strength * lora.modules[name].scaling * (b @ a))
    items = encoder_for(base.tokenizer, base.model.config, RowFormat()).encode_all(tiny_request().forget)
    values = example_probabilities(
        items, answer_logprobs(base.head, items, hidden_states(base.model, items, base.pad_id))
    )
    for name, weight in before.items():
        base.model.get_submodule(name).weight.data = weight
    return sum(values) / len(values)


def test_an_adapter_whose_facts_would_come_back_by_rounding_is_left_stronger(base, tmp_path):
    settings = dict(DOSES, settle_at=0.75)
    plain = forget(tiny_request(), base, tiny_settings(**settings), name="plain", store=tmp_path)
    came_back, least = rounded_probability(base, plain, tmp_path), rounded_probability(base, plain, tmp_path, 1.5)
    wanted = (came_back + least) / 2
    share = wanted / probability(base, plain, 0.0, tmp_path)
    strong = forget(tiny_request(), base, tiny_settings(**settings, settle_rounded=share), name="s", store=tmp_path)
    assert rounded_probability(base, strong, tmp_path) < came_back
    one, other = weights(plain), weights(strong)
    factor = max(float((other[key] / one[key]).nanmedian()) for key in one if "lora_B" in key)
    assert 1.0 < factor <= 1.5
    curve = curve_of(strong)
    assert [point["weight"] for point in curve] == sorted(point["weight"] for point in curve)
    assert any(point["weight"] == 1.0 for point in curve) or curve[-1]["weight"] > 1
    easy = forget(tiny_request(), base, tiny_settings(**settings, settle_rounded=0.99), name="e", store=tmp_path)
    assert all(torch.equal(one[key], weights(easy)[key]) for key in one)


def test_no_strength_is_rounded_beyond_the_first_that_is_enough(base, tmp_path, monkeypatch):
    tried = []

    def spied(student, at, dtype):
        tried.append(at)
        return merged_and_rounded(student, at, dtype)

    monkeypatch.setattr("asu_lora.forgetting.strength.merged_and_rounded", spied)
    settings = dict(DOSES, settle_at=0.75, epochs=1)
    forget(tiny_request(), base, tiny_settings(**settings, settle_rounded=0.99), name="easy", store=tmp_path)
    assert len(tried) == 1
    forget(tiny_request(), base, tiny_settings(**settings, settle_rounded=0.01), name="hard", store=tmp_path)
    assert len(tried) == 1 + len(STRONGER)


def test_a_loss_that_never_looks_at_the_true_answers_says_that_no_strength_is_measured(base, tmp_path):
    heard, settings = Listener(), tiny_settings(objective="idk", settle_rounded=0.25, epochs=1)
    run = forget(tiny_request(), base, settings, name="idk", store=tmp_path, progress=heard)
    assert any("--settle-rounded are not looked at" in note for note in heard.notes) and curve_of(run) is None
