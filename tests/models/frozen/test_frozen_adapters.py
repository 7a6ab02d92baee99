"""Training on top of other adapters: what is on when, what is saved, and what the base is afterwards."""

import json

import pytest
import torch
from safetensors.torch import load_file

import asu_lora.forgetting.run
import asu_lora.forgetting.targets
from asu_lora.adapters.manifest import fingerprint_of, read_manifest
from asu_lora.errors import SettingError, TrainingError
from asu_lora.forgetting.forget import forget
from asu_lora.models import adapter_stack as stack
from asu_lora.models.frozen_adapters import frozen_adapters
from asu_lora.models.loading import load_base
from asu_lora.training.new_adapter import adapted
from tests.support.fixed_logits import logits
from tests.support.ground import request
from tests.support.listener import Listener
from tests.support.tiny_run import tiny_request, tiny_settings


def on(base, store, *adapters):
    """Logits of base + adapters as :func:`asu_lora.load` puts them on."""
    loaded = stack.load(base, adapters, store)
    found = logits(loaded.model)
    loaded.unload()
    return found


def test_the_switch(base, store):
    plain, ground = on(base, store), on(base, store, "a", "b:0.5")
    assert (plain - ground).abs().max() > 0.1
    with frozen_adapters(base, ["a", "b:0.5"], store) as standing:
        assert torch.equal(logits(base.model), ground)
        with standing.inactive():
            assert torch.equal(logits(base.model), plain), "the teacher's base has something on"
            with standing.active():
                assert torch.equal(logits(base.model), ground)
            assert torch.equal(logits(base.model), plain)
        with adapted(base.model, tiny_settings(), standing) as student:
            assert torch.equal(logits(student), ground), "a fresh adapter changes nothing"
            trained = [name for name, p in student.named_parameters() if p.requires_grad]
            assert trained and all(".default." in name for name in trained)
            for name, parameter in student.named_parameters():
                if parameter.requires_grad and "lora_B" in name:
                    torch.nn.init.normal_(parameter, std=0.05)
            assert (logits(student) - ground).abs().max() > 0.1
        assert torch.equal(logits(base.model), ground)
        assert not any(p.requires_grad for p in base.model.parameters())


@pytest.mark.parametrize("beneath", [(), ("a", "b:0.5")])
def test_references_in_the_middle_of_a_run(base, store, beneath):
    """What own words are compared with, and the same student as before afterwards."""
    plain, ground = on(base, store), on(base, store, *beneath)
    with frozen_adapters(base, beneath, store) as standing, adapted(base.model, tiny_settings(), standing) as student:
        for name, parameter in student.named_parameters():
            if parameter.requires_grad and "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        trained, before = [p.requires_grad for p in student.parameters()], logits(student)
        assert (before - ground).abs().max() > 0.1
        for teacher, expected in (("base", plain), ("stack", ground)):
            with standing.reference(student, teacher):
                assert torch.equal(logits(base.model), expected)
            assert torch.equal(logits(student), before)
            assert [p.requires_grad for p in student.parameters()] == trained


def test_only_the_new_adapter_is_saved_and_the_stack_is_the_sum(base, store, tmp_path, monkeypatch):
    seen = []
    real = asu_lora.forgetting.run.write_adapter
    monkeypatch.setattr(
        "asu_lora.forgetting.run.write_adapter",
        lambda student, *args: (seen.append(logits(student)), real(student, *args)),
    )
    again = forget(
        request(4, 6, "again"),
        base,
        tiny_settings(lr=1e-2),
        store=tmp_path,
        on_top_of=[store.root / "a", (store.root / "b", 0.5)],
    )
    assert {path.name for path in again.path.iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "manifest.json",
        "README.md",
    }
    assert not any(word in key for key in load_file(again.path / "adapter_model.safetensors") for word in ("a0", "a1"))
    assert sorted(json.loads((again.path / "adapter_config.json").read_text())["target_modules"]) == [
        "down_proj",
        "gate_proj",
        "k_proj",
        "o_proj",
        "q_proj",
        "up_proj",
        "v_proj",
    ]
    got = on(base, store, "a", "b:0.5", again.path)
    assert (got - seen[0]).abs().max() < 1e-4 * seen[0].abs().max()
    assert (got - on(base, store, again.path)).abs().max() > 0.1


def test_the_manifest_names_the_ground_and_counts_the_base_alone(base, store):
    manifest = read_manifest(store.root / "c")
    assert [(below.name, below.weight) for below in manifest.on_top_of] == [("a", 1.0), ("b", 0.5)]
    assert [below.fingerprint for below in manifest.on_top_of] == [fingerprint_of(store.root / n) for n in "ab"]
    assert manifest.method.details["teacher"] == "base"
    assert [other.name for other in store.dependents("a")] == ["c"]
    assert store.missing_beneath("c") == []


def test_figures_before_are_those_of_the_ground(base, store, tmp_path):
    """a has made the model forget the first two: before the next run they are forgotten already."""
    settings = tiny_settings(eval_rows=2, epochs=1)
    alone = forget(request(0, 2, "alone"), base, settings, store=tmp_path)
    above = forget(request(0, 2, "above"), base, settings, store=tmp_path, on_top_of=[store.root / "a"])
    assert alone.before["forget_probability"] > 0.9
    assert above.before["forget_probability"] < 0.9 * alone.before["forget_probability"]
    assert above.record.counts["base_parameters"] == alone.record.counts["base_parameters"]
    assert above.record.counts["adapter_parameters"] == alone.record.counts["adapter_parameters"]


@pytest.mark.parametrize("teacher", ["base", "stack"])
def test_teacher_and_reference_come_from_the_base_or_the_stack(base, store, tmp_path, monkeypatch, teacher):
    seen = []
    real = asu_lora.forgetting.targets.compute_references

    def compute(base, *args):
        seen.append(logits(base.model))
        return real(base, *args)

    monkeypatch.setattr("asu_lora.forgetting.targets.compute_references", compute)
    forget(
        tiny_request(2, 2), base, tiny_settings(epochs=1, teacher=teacher), store=tmp_path, on_top_of=[store.root / "a"]
    )
    expected = on(base, store, *(["a"] if teacher == "stack" else []))
    assert len(seen) == 2 and all(torch.equal(found, expected) for found in seen)


def test_resumed_on_the_same_ground_is_bit_identical_and_on_another_refused(base, store, tmp_path):
    settings, ground = tiny_settings(dropout=0.3), [store.root / "b"]
    forget(tiny_request(), base, settings, name="whole", store=tmp_path, on_top_of=ground)
    with pytest.raises(KeyboardInterrupt):
        forget(
            tiny_request(),
            base,
            settings,
            name="broken",
            store=tmp_path,
            on_top_of=ground,
            progress=Listener(stop_at=5),
        )
    checkpoint = tmp_path / ".runs" / "broken" / "checkpoint-3"
    assert (checkpoint / "adapter_model.safetensors").is_file() and not (checkpoint / "a0").exists()
    for other in ([], [store.root / "a"], [(store.root / "b", 0.5)]):
        with pytest.raises(TrainingError, match="on top of other adapters"):
            forget(tiny_request(), base, settings, name="broken", store=tmp_path, on_top_of=other, resume=True)
    forget(tiny_request(), base, settings, name="broken", store=tmp_path, on_top_of=ground, resume=True)
    assert same(tmp_path, "whole", "broken")


def same(root, *names):
    first, second = ((root / name / "adapter_model.safetensors").read_bytes() for name in names)
    return first == second


def test_layers_below_all_adapters_are_run_once_and_no_others(base, store, tmp_path, monkeypatch):
    """What enters the first adapted layer is kept from the untouched base: the ground must not begin below it."""
    upper = tiny_settings(adapter_layers="1", smooth_layers="1", lr=1e-2)
    forget(request(0, 2, "upper"), base, upper, store=tmp_path)
    with frozen_adapters(base, [tmp_path / "upper"]) as ground:
        assert (ground.lowest(1), ground.lowest(0)) == (1, 0)
        with adapted(base.model, tiny_settings(), ground):
            pass
        assert ground.lowest(1) == 1, "an adapter that was dropped is none"
    with frozen_adapters(base, ["a"], store) as ground:
        assert ground.lowest(1) == 0
    for name, beneath in (("on-upper", tmp_path / "upper"), ("on-a", store.root / "a")):
        forget(request(2, 4, name), base, upper, store=tmp_path, on_top_of=[beneath])
        monkeypatch.setattr("asu_lora.forgetting.targets.find_frozen_layers", lambda *args: None)  # every layer is run
        forget(request(2, 4, f"{name}-whole"), base, upper, store=tmp_path, on_top_of=[beneath])
        monkeypatch.undo()
        kept, whole = (load_file(tmp_path / n / "adapter_model.safetensors") for n in (name, f"{name}-whole"))
        assert all(torch.allclose(kept[key], whole[key], atol=1e-5) for key in whole)


def test_continuing_begins_with_the_adapters_weights(base, store, tmp_path):
    first = load_file(store.root / "a" / "adapter_model.safetensors")
    result = forget(
        request(2, 4, "next"),
        base,
        tiny_settings(lr=1e-9, epochs=1, eval_rows=2),
        store=tmp_path,
        continue_from=store.root / "a",
    )
    after = load_file(result.path / "adapter_model.safetensors")
    assert read_manifest(result.path).method.details["continued_from"] == fingerprint_of(store.root / "a")
    assert first.keys() == after.keys() and all(torch.allclose(first[k], after[k], atol=1e-6) for k in first)
    assert (on(base, store, result.path) - on(base, store, "a")).abs().max() < 1e-3
    assert result.before["forget_probability"] == pytest.approx(result.after["forget_probability"], abs=1e-3)
    with pytest.raises(SettingError, match="can't be continued with these settings: its r is 4, not 2"):
        forget(request(2, 4, "other"), base, tiny_settings(rank=2), store=tmp_path, continue_from=store.root / "a")


def test_on_nf4_too(taught_base, store, tmp_path, nf4_compute):
    """All off is the base, bit by bit; a run on top of another trains and leaves it as it was."""
    quantized = load_base(str(taught_base), "nf4", "cpu")
    plain = logits(quantized.model)
    with frozen_adapters(quantized, ["a"], store) as standing:
        assert (logits(quantized.model) - plain).abs().max() > 0.05
        with standing.inactive():
            assert torch.equal(logits(quantized.model), plain)
    result = forget(
        tiny_request(2, 2),
        quantized,
        tiny_settings(precision="nf4", lr=1e-2),
        store=tmp_path,
        on_top_of=[store.root / "a"],
    )
    assert result.record.base.precision == "nf4" and result.record.training["steps"] == 3
    assert all(value.any() for value in load_file(result.path / "adapter_model.safetensors").values())
    assert torch.equal(logits(quantized.model), plain)
