"""Bases that transformers loads without a word, and that are not what they seem: refused, or said."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from asu_lora.bases.checkpoint_files import SINGLE_NAME
from asu_lora.errors import BaseModelError
from asu_lora.merging.merge import merge
from asu_lora.models.adapter_stack import load
from asu_lora.models.loading import load_base
from asu_lora.models.prepared_base import prepare_base
from tests.support.checkpoint_copies import copy, rewrite_json
from tests.support.lora_folders import save_lora


def changed(base, folder, change):
    """A copy of a base whose tensors go through ``change(name, tensor)``."""
    copy(base, folder)
    tensors = {name: change(name, tensor) for name, tensor in load_file(base / SINGLE_NAME).items()}
    save_file(tensors, folder / SINGLE_NAME, {"format": "pt"})
    return folder


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_numbers_that_need_scales_are_refused_where_the_config_names_no_format(tiny_base, tmp_path, dtype):
    """transformers would take the integers for the weights themselves."""
    folder = changed(tiny_base, tmp_path / "base", lambda name, t: t.to(dtype) if "q_proj" in name else t)
    adapter = save_lora(tiny_base, tmp_path / "a")
    for use in (
        lambda: prepare_base(str(folder), "fp32", "cpu"),
        lambda: merge(folder, [(adapter, 1.0)], tmp_path / "out", "fp32"),
    ):
        with pytest.raises(BaseModelError, match="q_proj.weight as .* names no quantisation"):
            use()
    assert not (tmp_path / "out").exists()


def test_tensors_without_a_place_are_said(tiny_base, tmp_path):
    folder = copy(tiny_base, tmp_path / "base")
    assert load_base(str(folder), "fp32", "cpu").notes() == []
    rewrite_json(folder / "config.json", lambda config: config.update(num_hidden_layers=1))
    [note] = load_base(str(folder), "fp32", "cpu").notes()
    assert "model.layers.1.input_layernorm.weight and 8 more" in note and "LlamaForCausalLM" in note
    assert note in load(str(folder), precision="fp32", device="cpu").notes
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 1


def test_a_base_of_nan_is_said_to_be_one(tiny_base, tmp_path):
    folder = changed(
        tiny_base, tmp_path / "base", lambda name, t: t * float("nan") if name == "model.norm.weight" else t
    )
    with pytest.raises(BaseModelError, match="gives NaN or infinities"):
        _ = load_base(str(folder), "fp32", "cpu").head
