"""A base in 4 bits on a CPU is trained on with its layers unpacked: the same adapter, and nothing left behind."""

import pytest
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file

from asu_lora.forgetting.at_once import forget_at_once
from asu_lora.forgetting.forget import forget
from asu_lora.models import unpacked_weights
from asu_lora.models.decoder import decoder_and_layers
from asu_lora.models.generation import generate_answers
from asu_lora.models.loading import load_base
from asu_lora.training.shared_passes import SharedPasses
from asu_lora.training.student import Student
from tests.support.tiny_run import tiny_request, tiny_settings

SETTINGS = tiny_settings(precision="nf4", adapter_layers="1", epochs=2, own_words=0.5, keep_off=0.5)


def unpacked_layers(model) -> list[int]:
    """The decoder layers whose maps are unpacked now."""
    layers = decoder_and_layers(model)[1]
    maps = {at: [m for m in layer.modules() if isinstance(m, Linear4bit)] for at, layer in enumerate(layers)}
    return [at for at, own in maps.items() if own and all("forward" in vars(each) for each in own)]


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "at once"])
def test_the_adapter_is_the_same_to_the_bit(taught_base, tmp_path, monkeypatch, nf4_compute, alone):
    base, seen, made = load_base(str(taught_base), "nf4", "cpu"), [], {}
    forward, serve = Student.forward, SharedPasses.serve
    monkeypatch.setattr(Student, "forward", lambda *a: seen.append(unpacked_layers(base.model)) or forward(*a))
    monkeypatch.setattr(SharedPasses, "serve", lambda *a: seen.append(count_unpacked(a[0])) or serve(*a))
    for name in ("unpacked", "packed"):
        if name == "packed":
            monkeypatch.setattr(unpacked_weights, "room_to_unpack", lambda given: 0)
        if alone:
            made[name] = forget(tiny_request(), base, SETTINGS, name=name, store=tmp_path).path
        else:
            requests = {f"{name}-{facts}": tiny_request(facts) for facts in (2, 3)}
            made[name] = forget_at_once(requests, base, SETTINGS, store=tmp_path)[f"{name}-3"].path
        assert not unpacked_layers(base.model)
        if alone:
            assert seen and all(each == ([1] if name == "unpacked" else []) for each in seen)
        else:
            assert seen and all(bool(each) == (name == "unpacked") for each in seen)
        seen.clear()
    one, two = (load_file(folder / "adapter_model.safetensors") for folder in made.values())
    assert one.keys() == two.keys() and all((one[key] == two[key]).all() for key in one)


def count_unpacked(passes: SharedPasses) -> int:
    """How many of the maps behind the rows' adapters are unpacked."""
    maps = [passes.adapters.model.get_submodule(name) for name in passes.adapters.adapters[0].pairs]
    return sum("forward" in vars(vars(each)["layer"]) for each in maps)


def test_answers_are_written_with_all_layers_unpacked(taught_base, monkeypatch, nf4_compute):
    base, seen = load_base(str(taught_base), "nf4", "cpu"), []
    forward = type(base.model).forward
    monkeypatch.setattr(
        type(base.model), "forward", lambda *a, **more: seen.append(unpacked_layers(base.model)) or forward(*a, **more)
    )
    told = generate_answers(base.model, base.tokenizer, [[5, 6, 7], [8, 9]], new_tokens=4)
    assert seen and all(each == [0, 1] for each in seen) and not unpacked_layers(base.model)
    monkeypatch.setattr(unpacked_weights, "room_to_unpack", lambda share: 0)
    assert generate_answers(base.model, base.tokenizer, [[5, 6, 7], [8, 9]], new_tokens=4) == told
