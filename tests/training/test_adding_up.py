"""Adapters that add up: doses of the adapter beside retain rows, and directions that it keeps off."""

import json
from dataclasses import replace

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file

from asu_lora.batches.collator import ON_POLICY, Collator
from asu_lora.batches.forget_retain_pairs import ForgetRetainPairs, dose_of, forget_dose_of
from asu_lora.data.training_rows import TrainingRows
from asu_lora.errors import SettingError
from asu_lora.forgetting.forget import forget
from asu_lora.models.frozen_adapters import NEW
from asu_lora.models.frozen_layers import find_frozen_layers
from asu_lora.models.hidden_states import hidden_states
from asu_lora.training.doses import Doses, strengthen
from asu_lora.training.kept_directions import InputMoments, KeepOff, kept_directions, strongest, strongest_of_sketch
from asu_lora.training.new_adapter import adapted
from asu_lora.training.student import Student
from tests.support.listener import Listener
from tests.support.tiny_run import encoded_facts, tiny_request, tiny_settings

ADD_UP = dict(retain_dose=4.0, forget_dose=3.0, keep_off=0.5)


def moved(peft):
    torch.manual_seed(1)
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return peft


def test_doses_are_spread_evenly_and_follow_from_the_number_alone():
    doses = [dose_of(at, 4.0) for at in range(300)]
    assert all(1.0 <= dose < 4.0 for dose in doses)
    for low in (1.0, 2.0, 3.0):
        assert sum(low <= dose < low + 1 for dose in doses) == pytest.approx(100, abs=3)
    pairs = ForgetRetainPairs(5, 7, 2, 0, retain_dose=4.0)
    pairs.set_epoch(3)
    assert pairs[2].doses == [dose_of(34, 4.0), dose_of(35, 4.0)]
    assert ForgetRetainPairs(5, 7, 2, 0)[2].doses is None


@pytest.mark.parametrize("rows", [5, 34, 40])
def test_a_forget_row_meets_all_doses_over_the_epochs_and_rows_beside_each_other_differ(rows):
    for row in range(rows):
        over_epochs = [forget_dose_of(row, epoch, 4.0) for epoch in range(12)]
        assert {int(dose) for dose in over_epochs} == {1, 2, 3}, row
    for epoch in range(12):
        doses = [forget_dose_of(row, epoch, 4.0) for row in range(rows)]
        assert sum(doses) / rows == pytest.approx(2.5, abs=0.5), epoch


def test_pairs_carry_the_forget_rows_dose():
    pairs = ForgetRetainPairs(5, 7, 2, 0, forget_dose=3.0)
    pairs.set_epoch(3)
    assert pairs[2].forget_dose == forget_dose_of(2, 3, 3.0) != 1.0
    assert pairs[2].doses is None  # beside retain rows the adapter keeps its strength
    assert ForgetRetainPairs(5, 7, 2, 0, retain_dose=4.0)[2].forget_dose == 1.0


@pytest.mark.parametrize("packing", [None, "lines", "line"])
def test_each_row_meets_the_adapter_at_its_dose(base, taught_base, packing):
    items = encoded_facts(taught_base)
    sets = {
        "forget": TrainingRows({"answer": items[:3]}),
        "retain": TrainingRows({"answer": items[3:]}),
        ON_POLICY: TrainingRows({"answer": items[1:2]}, beside={2: 0}),
    }
    needs = {"forget": {"answer": ()}, "retain": {"answer": ()}, ON_POLICY: {"answer": ()}}
    collator = Collator(sets, needs, base.pad_id, packing=packing)
    (batch,) = collator([(0, [1, 4], [2.5, 1.0]), (2, [0, 5], [3.75, 1.25], 2.0)])["micro_batches"]
    with adapted(base.model, tiny_settings()) as peft:
        found = Student(moved(peft))(batch["passes"]).detach()
        wanted = {}
        for dose in (1.0, 2.0, 2.5, 3.75, 1.25):
            layers = [each for each in peft.modules() if isinstance(each, LoraLayer)]
            for layer in layers:
                layer.scaling[NEW] *= dose
            wanted[dose] = hidden_states(base.model, items, base.pad_id)
            for layer in layers:
                layer.scaling[NEW] /= dose
    doses = {"forget": {0: 1.0, 2: 2.0}, "retain": {1: 2.5, 4: 1.0, 0: 3.75, 5: 1.25}, ON_POLICY: {0: 2.0}}
    first = {"forget": 0, "retain": 3, ON_POLICY: 1}
    for name, rows in doses.items():
        part = batch["sets"][name]["answer"]
        states = list(found[part["at"]].split(torch.bincount(part["row"]).tolist()))
        for row, dose in rows.items():
            expected = wanted[dose][row + first[name]]
            assert any(len(s) == len(expected) and torch.allclose(s, expected, atol=1e-5) for s in states), (name, row)
    assert not torch.allclose(wanted[1.0][4], wanted[3.75][4], atol=1e-3)


def test_after_a_pass_the_adapter_has_its_own_strength_again(base):
    with adapted(base.model, tiny_settings()) as peft:
        doses = Doses(peft)
        before = list(doses.scaling)
        with pytest.raises(KeyError), doses.given(torch.full((2, 1, 1), 3.0)):
            assert all(torch.is_tensor(layer.scaling[NEW]) for layer in doses.layers)
            raise KeyError
        assert [layer.scaling[NEW] for layer in doses.layers] == before and before


@pytest.mark.parametrize("dose", ["retain_dose", "forget_dose"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_losses_see_higher_doses_with_and_without_checkpointing(base, tmp_path, checkpointing, dose):
    """The gradient under checkpointing is that without: the second forward pass has the doses of the first."""
    settings = tiny_settings(**{dose: 4.0}, lr=0.05, optimizer="sgd", epochs=1)
    plain = forget(tiny_request(), base, settings, name="plain", store=tmp_path)
    other = forget(
        tiny_request(),
        base,
        replace(settings, gradient_checkpointing=checkpointing, **{dose: 4.0 if checkpointing else 1.0}),
        name="other",
        store=tmp_path,
    )
    one, two = (load_file(run.path / "adapter_model.safetensors") for run in (plain, other))
    same = all(torch.allclose(one[key], two[key], atol=1e-6) for key in one)
    assert same == checkpointing


def test_moments_are_those_of_each_modules_normalised_inputs(base, taught_base):
    items = encoded_facts(taught_base)
    in_other_words = [replace(item, prompt_ids=item.prompt_ids[::-1]) for item in items]  # don't count
    behind = {at: [at + len(items)] for at in range(len(items))}
    rows = TrainingRows({"answer": [*items, *in_other_words]}, in_other_words=behind)
    with adapted(base.model, tiny_settings()) as peft:
        layers = {name: module for name, module in peft.named_modules() if isinstance(module, LoraLayer)}
        moments = InputMoments(layers)
        moments.read(peft, rows, base.pad_id, None)
        seen: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
        hooks = [
            module.base_layer.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(args[0][0]))
            for name, module in layers.items()
        ]
        with torch.no_grad():
            for item in items:
                base.model(input_ids=torch.tensor([item.prompt_ids + item.answer_ids]))
        for hook in hooks:
            hook.remove()
    assert len(moments.sums) < len(layers)  # query, key and value read the same
    for name in layers:
        unit = torch.nn.functional.normalize(torch.cat(seen[name]), dim=1)
        assert torch.allclose(moments.sums[moments.same_as[name]], unit.T @ unit, atol=1e-3), name


def test_the_strongest_directions_are_the_largest_eigenvectors():
    torch.manual_seed(0)
    vectors, _ = torch.linalg.qr(torch.randn(6, 6))
    moment = vectors @ torch.diag(torch.tensor([1.0, 9.0, 2.0, 8.0, 0.5, 7.0])) @ vectors.T
    found = strongest(moment, 0.5)
    assert torch.allclose(found @ found.T, vectors[:, [1, 3, 5]] @ vectors[:, [1, 3, 5]].T, atol=1e-5)


def test_cached_layers_give_the_same_directions(base, taught_base):
    items = encoded_facts(taught_base)
    rows = TrainingRows({"answer": items})
    frozen = find_frozen_layers(base.model, 1)
    cached = TrainingRows({"answer": items}, entries={"answer": frozen.compute(items, base.pad_id)})
    settings = tiny_settings(adapter_layers="1")
    with adapted(base.model, settings) as peft:
        whole = kept_directions(peft, rows, 0.5, base.pad_id, None)
        parts = kept_directions(peft, cached, 0.5, base.pad_id, frozen)
    for (names, one), (same, two) in zip(whole, parts, strict=True):
        assert names == same
        assert torch.allclose(one @ one.T, two @ two.T, atol=1e-3)


def test_an_adapter_that_was_trained_so_reads_nothing_of_what_is_kept(base, tmp_path, monkeypatch):
    made = []
    real = KeepOff.__init__
    monkeypatch.setattr(KeepOff, "__init__", lambda self, *args: made.append(self) or real(self, *args))
    result = forget(tiny_request(), base, tiny_settings(**ADD_UP), store=tmp_path, progress=Listener())
    (kept,) = made
    assert len(kept.pairs) > 4 and not kept.sketched
    for weight, basis in kept.pairs:
        assert (weight @ basis).norm() < 1e-5 * weight.norm()
    weights = load_file(result.path / "adapter_model.safetensors")
    assert all(weights[key].norm() > 0 for key in weights if "lora_B" in key)
    details = json.loads((result.path / "manifest.json").read_text())["method"]["details"]
    assert {name: details[name] for name in ADD_UP} == ADD_UP


def test_a_trained_adapter_is_made_stronger_for_good(base):
    with adapted(base.model, tiny_settings()) as peft:
        before = {name: weight.clone() for name, weight in moved(peft).named_parameters()}
        strengthen(peft, 1.5)
        for name, weight in peft.named_parameters():
            assert torch.allclose(weight, before[name] * (1.5 if "lora_B" in name else 1.0)), name


def test_it_goes_on_bit_by_bit_after_an_interruption(base, tmp_path):
    settings = tiny_settings(epochs=4, **ADD_UP)
    whole = forget(tiny_request(), base, settings, name="whole", store=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        forget(tiny_request(), base, settings, name="part", store=tmp_path, progress=Listener(stop_at=8))
    part = forget(tiny_request(), base, settings, name="part", store=tmp_path, resume=True)
    one, two = (load_file(run.path / "adapter_model.safetensors") for run in (whole, part))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_wide_modules_are_kept_off_the_strongest_directions_of_a_sketch_and_it_is_said(base, tmp_path, monkeypatch):
    monkeypatch.setattr("asu_lora.training.kept_directions.MOST_INPUTS", 100)
    monkeypatch.setattr("asu_lora.training.kept_directions.MOST_KEPT", 20)
    made, notes = [], []
    real = KeepOff.__init__
    monkeypatch.setattr(KeepOff, "__init__", lambda self, *args: made.append(self) or real(self, *args))
    heard = Listener()
    heard.note = notes.append
    forget(tiny_request(), base, tiny_settings(**ADD_UP), store=tmp_path, progress=heard)
    (kept,) = made
    assert {tuple(basis.shape) for _, basis in kept.pairs} == {(64, 32), (128, 20)}
    for weight, basis in kept.pairs:
        assert (weight @ basis).norm() < 1e-5 * weight.norm()
    assert any(note.startswith("2 modules read more than") for note in notes)


def test_a_sketch_of_all_tokens_has_the_directions_of_their_moment():
    torch.manual_seed(0)
    tokens = torch.randn(30, 12) * torch.linspace(1, 8, 12)
    exact, found = strongest(tokens.T @ tokens, 0.25), strongest_of_sketch(tokens, 3)
    assert torch.allclose(exact @ exact.T, found @ found.T, atol=1e-4)
    assert strongest_of_sketch(tokens[:2], 3).shape == (12, 2)  # two tokens have two directions


@pytest.mark.parametrize("tokens", [7, 40, 10_000])
def test_a_sketch_takes_tokens_evenly_from_all_rows(base, taught_base, monkeypatch, tokens):
    monkeypatch.setattr("asu_lora.training.kept_directions.MOST_INPUTS", 1)
    monkeypatch.setattr("asu_lora.training.kept_directions.SKETCH", tokens)
    monkeypatch.setattr("asu_lora.training.kept_directions.tokens_of_reading", lambda _: 20)  # a row a pass
    items = encoded_facts(taught_base)
    with adapted(base.model, tiny_settings()) as peft:
        layers = {name: module for name, module in peft.named_modules() if isinstance(module, LoraLayer)}
        moments = InputMoments(layers)
        moments.read(peft, TrainingRows({"answer": items}), base.pad_id, None)
    every = sum(map(len, items))
    for found in moments.sums.values():
        assert len(found) == -(-every // -(-every // tokens)) and found.norm(dim=1).allclose(torch.ones(len(found)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"retain_dose": 0.5}, "retain_dose is 0.5; it must be at least 1"),
        ({"forget_dose": 0.9}, "forget_dose is 0.9; it must be at least 1"),
        ({"keep_off": 1.0}, "keep_off is 1.0; it is a share and must be below 1"),
        ({"settle_at": 1.0}, "settle_at is 1.0; it is a share and must be below 1"),
        ({"keep_off": -0.1}, "keep_off is -0.1; it must be at least 0"),
        ({"retain_dose": float("nan")}, "retain_dose is nan"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(SettingError, match=message):
        tiny_settings(**changes)
