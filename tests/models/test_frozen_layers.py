"""What enters the first adapted layer, kept: the same states and losses as with every layer run."""

import pytest
import torch

import asu_lora.forgetting.targets
from asu_lora.data.encoding import Encoded
from asu_lora.forgetting.forget import forget
from asu_lora.models.frozen_layers import find_frozen_layers, find_frozen_layers_above
from asu_lora.models.hidden_states import hidden_states
from asu_lora.teacher.smoothing import attention_smoothing
from asu_lora.teacher.teacher_states import teacher_states
from tests.support.small_models import model_of
from tests.support.tiny_base import save_tiny_base
from tests.support.tiny_run import tiny_request, tiny_settings

ROWS = [Encoded((5, 6, 7, 8), (9, 10, 11)), Encoded((3, 4), (12, 13)), Encoded(tuple(range(1, 20)), (2, 7, 9))]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "gpt_neox", "opt", "qwen3", "mistral"])
@pytest.mark.parametrize("tau", [1.0, 2.5])
def test_states_are_those_of_the_whole_decoder(kind, tau):
    model = model_of(kind)
    entry = find_frozen_layers(model, 2)
    assert entry is not None
    before = list(model.get_decoder().children())
    entries, finals, none = entry.compute_whole(ROWS, 0)
    assert none == []
    assert all(torch.equal(*pair) for pair in zip(entries, entry.compute(ROWS, 0), strict=True))
    assert [len(e) for e in entries] == [len(row) for row in ROWS]
    with attention_smoothing(model, 2.0):
        pass  # its trial, once a model, runs every layer
    ran = []
    hook = entry.layers[1].register_forward_hook(lambda *_: ran.append(1))
    parts = teacher_states(model, ROWS, 0, tau, [2, 3], entry=entry, entries=entries)
    assert not ran  # the layers below were not computed
    whole = teacher_states(model, ROWS, 0, tau, [2, 3])
    hook.remove()
    for part, full in zip([*parts, *finals], [*whole, *hidden_states(model, ROWS, 0)], strict=True):
        torch.testing.assert_close(part, full, rtol=1e-5, atol=1e-5)
    assert list(model.get_decoder().children()) == before


def test_a_teacher_smoothed_below_the_entry_runs_every_layer():
    model = model_of("llama")
    entry = find_frozen_layers(model, 2)
    entries = entry.compute(ROWS, 0)
    for layers in (None, [1, 3]):
        for part, full in zip(
            teacher_states(model, ROWS, 0, 2.0, layers, entry=entry, entries=entries),
            teacher_states(model, ROWS, 0, 2.0, layers),
            strict=True,
        ):
            assert torch.equal(part, full)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_a_teacher_smoothed_further_up_begins_where_it_differs(kind):
    model = model_of(kind)
    entry = find_frozen_layers(model, 1)
    assert find_frozen_layers_above(entry, model, [1, 3]) is None
    assert find_frozen_layers_above(entry, model, None) is None
    assert find_frozen_layers_above(None, model, [3]) is None
    higher = find_frozen_layers_above(entry, model, [3])
    assert higher.first == 3
    entries, _, above = entry.compute_whole(ROWS, 0, higher)
    assert all(torch.equal(*pair) for pair in zip(entries, entry.compute(ROWS, 0), strict=True))
    assert all(torch.equal(*pair) for pair in zip(above, higher.compute(ROWS, 0), strict=True))
    for part, full in zip(
        teacher_states(model, ROWS, 0, 2.5, [3], entry=higher, entries=above),
        teacher_states(model, ROWS, 0, 2.5, [3]),
        strict=True,
    ):
        torch.testing.assert_close(part, full, rtol=1e-5, atol=1e-5)


def test_a_decoder_that_passes_on_more_than_states_goes_without():
    """Here each layer also reads what the layer before left behind: no stand-in can give that."""
    model = model_of("llama")
    layers = model.get_decoder().layers
    for index, layer in enumerate(layers):
        layer.left = torch.zeros(())
        inner = layer.forward

        def forward(states, *args, inner=inner, index=index, **kwargs):
            out = inner(states + (layers[index - 1].left if index else 0), *args, **kwargs)
            layers[index].left = out.mean()
            return out

        layer.forward = forward
    assert find_frozen_layers(model, 2) is None
    assert find_frozen_layers(model, 0) is None


def test_layers_are_whole_again_after_an_error():
    model = model_of("llama")
    layers = list(model.get_decoder().layers)
    entry = find_frozen_layers(model, 2)
    with pytest.raises(KeyError), entry.replayed():
        raise KeyError
    assert list(model.get_decoder().layers) == layers


def test_a_run_gives_the_same_adapter_with_and_without(taught_base, tmp_path, monkeypatch):
    """fp32: the adapter of a whole run, layers below skipped, against every layer run at every step."""
    from safetensors.torch import load_file

    found = []
    for name in ("kept", "run"):
        if name == "run":
            monkeypatch.setattr("asu_lora.forgetting.targets.find_frozen_layers", lambda model, first: None)
        result = forget(
            tiny_request(),
            str(taught_base),
            tiny_settings(adapter_layers="1", smooth_layers="1"),
            name=name,
            store=tmp_path,
        )
        found.append((load_file(result.path / "adapter_model.safetensors"), result.record.training["train_loss"]))
    (kept, kept_loss), (run, run_loss) = found
    assert kept_loss == pytest.approx(run_loss, rel=1e-4)
    assert kept.keys() == run.keys()
    for name in kept:
        torch.testing.assert_close(kept[name], run[name], rtol=1e-2, atol=1e-4)


def test_a_run_gives_the_same_adapter_wherever_the_teacher_begins(tmp_path, monkeypatch):
    """Adapters from layer 1 on, smoothing in layer 3 alone: the teacher starts there, or where the student does."""
    from safetensors.torch import load_file

    base = str(save_tiny_base(tmp_path / "base", num_hidden_layers=4))
    asked, real = [], asu_lora.forgetting.targets.find_frozen_layers_above
    settings = tiny_settings(adapter_layers="1-3", smooth_layers="3", epochs=2, eval_rows=0, tau=2.0)
    found = []
    for above in (lambda *given: asked.append(real(*given)) or asked[-1], lambda *_: None):
        monkeypatch.setattr("asu_lora.forgetting.targets.find_frozen_layers_above", above)
        result = forget(tiny_request(), base, settings, name=f"run-{len(found)}", store=tmp_path / "store")
        found.append(load_file(result.path / "adapter_model.safetensors"))
    assert asked[0].first == 3 and asked[0].states is None  # and it keeps no batch alive
    for name, weight in found[0].items():
        torch.testing.assert_close(weight, found[1][name], rtol=1e-2, atol=1e-4)


def test_gradient_checkpointing_goes_with_it(taught_base, tmp_path):
    result = forget(
        tiny_request(),
        str(taught_base),
        tiny_settings(adapter_layers="1", smooth_layers="1", gradient_checkpointing=True, epochs=1),
        name="checkpointed",
        store=tmp_path,
    )
    assert result.record.training["train_loss"] > 0
