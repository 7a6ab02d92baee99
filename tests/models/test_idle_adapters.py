"""An adapter that changes nothing is said to; folders and paths that people mean otherwise are understood or named."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from asu_lora.adapters.adapter_spec import parse_adapter
from asu_lora.adapters.store import AdapterStore
from asu_lora.bases.source import BaseSource
from asu_lora.errors import AdapterError, SettingError
from asu_lora.models import adapter_stack
from asu_lora.models.loading import load_base
from tests.support.lora_folders import save_lora

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture(scope="module")
def base(tiny_base):
    return load_base(str(tiny_base), "fp32", "cpu")


@pytest.fixture
def lora(tiny_base, tmp_path):
    return save_lora(tiny_base, tmp_path / "a", target_modules=["embed_tokens", "q_proj"])


def notes(base, *adapters):
    loaded = adapter_stack.load(base, adapters)
    loaded.unload()
    return [note for note in loaded.notes if "changes nothing" in note]


def test_an_adapter_that_was_never_trained_is_said_to_change_nothing(base, lora):
    assert notes(base, lora) == []
    tensors = load_file(lora / WEIGHTS)
    save_file({key: torch.zeros_like(t) if "_B" in key else t for key, t in tensors.items()}, lora / WEIGHTS)
    assert notes(base, lora) == ["The adapter 'a' changes nothing: its B or its alpha is 0 everywhere."]


def test_so_is_one_that_is_scaled_by_nothing_but_not_one_at_a_weight_of_0(base, lora):
    assert notes(base, (lora, 0.0)) == []
    settings = json.loads((lora / CONFIG).read_text())
    (lora / CONFIG).write_text(json.dumps(settings | {"lora_alpha": 0}))
    assert len(notes(base, lora)) == 1


def test_a_folder_may_have_a_colon_in_its_path(tmp_path):
    folder = tmp_path / "run:2"
    folder.mkdir()
    assert parse_adapter(str(folder)) == (str(folder), 1.0)
    assert parse_adapter(f"{folder}:0.5") == (str(folder), 0.5)
    with pytest.raises(SettingError, match="'3x' is no number"):
        parse_adapter("run:3x")


def test_a_trainers_folder_names_the_checkpoint_in_it(lora, tmp_path):
    shutil.copytree(lora, tmp_path / "out" / "checkpoint-30")
    with pytest.raises(
        AdapterError, match=r"out has no adapter_config.json.*, but \S+out/checkpoint-30 in it is one\.$"
    ):
        AdapterStore(tmp_path / "store").resolve(tmp_path / "out")


def test_a_sharded_adapter_is_said_to_be_one(lora, tmp_path):
    (lora / WEIGHTS).rename(lora / "adapter_model-00001-of-00002.safetensors")
    with pytest.raises(AdapterError, match="adapter_model.safetensors is missing \\(it is sharded: .*one file\\)"):
        AdapterStore(tmp_path / "store").resolve(lora)


def test_an_adapter_that_names_another_base_of_the_hub_is_said_to(lora, tiny_base):
    def said(base, **config):
        settings = json.loads((lora / CONFIG).read_text())
        (lora / CONFIG).write_text(json.dumps(settings | config))
        return adapter_stack.named_otherwise([(lora, 1.0)], BaseSource(base, tiny_base))

    [note] = said("org/one", base_model_name_or_path="org/other")
    assert note.startswith("The adapter 'a' says that it was trained on org/other, and the base is org/one: ")
    assert said("Org/Other") == said(str(tiny_base)) == said("smollm2-135m") == []
    assert said("org/one", base_model_name_or_path=None) == said("org/one", base_model_name_or_path="/a/folder") == []
