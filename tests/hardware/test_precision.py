"""The type that matrix products run in, and the switch that tries the other kind of CPU."""

import pytest
import torch

from asu_lora.errors import SettingError
from asu_lora.hardware.precision import FORCED, TYPES, compute_dtype, fast_compute_dtype
from asu_lora.models.loading import load_base

CPU = torch.device("cpu")


def test_the_switch_decides_what_nf4_computes_in(tiny_base, nf4_compute):
    assert compute_dtype("nf4", CPU) == fast_compute_dtype(CPU) == TYPES[nf4_compute]
    base = load_base(str(tiny_base), "nf4", "cpu")
    layer = base.model.model.layers[0].mlp.gate_proj
    assert base.compute_dtype == layer.compute_dtype == base.model.lm_head.weight.dtype == TYPES[nf4_compute]


def test_other_precisions_stay_as_they_are_named(nf4_compute):
    assert compute_dtype("fp32", CPU) == torch.float32 and compute_dtype("bf16", CPU) == torch.bfloat16


def test_without_the_switch_the_machine_decides(monkeypatch):
    monkeypatch.delenv(FORCED, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert compute_dtype("nf4", CPU) == torch.float32
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert compute_dtype("nf4", CPU) == torch.bfloat16


@pytest.mark.parametrize("value", ["fp16", "float32", "yes"])
def test_a_type_that_it_does_not_know_is_refused(monkeypatch, value):
    monkeypatch.setenv(FORCED, value)
    with pytest.raises(SettingError, match=f"{FORCED} is '{value}': set it to fp32 or bf16"):
        compute_dtype("nf4", CPU)
