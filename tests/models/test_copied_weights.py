"""Copies of the base's weights in an adapter's file: served and merged where they are the base's own, else refused."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from asu_lora.adapters.combine import combine
from asu_lora.adapters.lora_folder import read_adapter
from asu_lora.adapters.serving import REFUSES, serving_findings
from asu_lora.errors import AdapterError
from asu_lora.merging.merge import merge
from asu_lora.models import adapter_stack
from asu_lora.models.frozen_adapters import check_ground, frozen_adapters
from asu_lora.models.loading import load_base
from tests.support.lora_folders import logits_of, stacked
from tests.support.tiny_base import save_tiny_base

WEIGHTS = "adapter_model.safetensors"


def save(base, folder, grown=0, save_embedding_layers="auto", **settings):
    """An adapter as PEFT saves it by default: with copies of embeddings that have a LoRA, or that grew."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if grown:
        model.resize_token_embeddings(model.config.vocab_size + grown)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, **settings))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder, save_embedding_layers=save_embedding_layers)
    return folder


def rewritten(folder, change):
    """The same folder with every copy changed."""
    tensors = load_file(folder / WEIGHTS)
    save_file({key: t if "lora_" in key else change(t) for key, t in tensors.items()}, folder / WEIGHTS)
    assert any("lora_" not in key for key in tensors)
    return folder


@pytest.fixture(scope="module", params=[False, True], ids=["own head", "tied head"])
def bases(request, tmp_path_factory):
    folder = save_tiny_base(tmp_path_factory.mktemp("bases") / "base", tie_word_embeddings=request.param)
    return folder, load_base(str(folder), "fp32", "cpu")


@pytest.mark.parametrize("kept_as", [torch.float32, torch.bfloat16])
def test_a_copy_that_is_the_bases_own_is_served_and_switched_off(bases, tmp_path, kept_as):
    folder, base = bases
    adapter = rewritten(
        save(folder, tmp_path / "a", target_modules=["embed_tokens", "q_proj"]), lambda t: t.to(kept_as)
    )
    before = logits_of(base.model)
    loaded = adapter_stack.load(base, [adapter])
    on = logits_of(loaded.model)
    loaded.unload()
    assert torch.equal(logits_of(base.model), before) and not torch.equal(on, before)
    if kept_as is torch.float32:
        torch.testing.assert_close(on, logits_of(stacked(folder, [(adapter, 1.0)])))


def test_both_embeddings_that_were_asked_for_are_served(bases, tmp_path):
    folder, base = bases
    adapter = save(folder, tmp_path / "a", target_modules=["q_proj"], save_embedding_layers=True)
    assert len(read_adapter(adapter).copies) == 2
    adapter_stack.load(base, [adapter]).unload()
    with frozen_adapters(base, [adapter]):
        assert check_ground(base.source, [adapter], tmp_path)


def test_a_merge_takes_it_too(tmp_path):
    folder = save_tiny_base(tmp_path / "base", tie_word_embeddings=False)
    adapter = save(folder, tmp_path / "a", target_modules=["embed_tokens", "q_proj"])
    merge(str(folder), [(adapter, 1.0)], tmp_path / "out", "fp32")
    torch.testing.assert_close(logits_of(tmp_path / "out"), logits_of(stacked(folder, [(adapter, 1.0)])))


@pytest.mark.parametrize("settings", [{"target_modules": ["embed_tokens"]}, {"target_modules": ["q_proj"], "grown": 4}])
def test_another_embedding_is_refused_by_name_everywhere(bases, tmp_path, settings):
    folder, base = bases
    adapter = save(folder, tmp_path / "a", **settings)
    if "grown" not in settings:
        rewritten(adapter, lambda t: torch.cat([t[:-1], t[-1:] + 1e-3]))
    for use in (
        lambda: adapter_stack.load(base, [adapter]),
        lambda: check_ground(base.source, [adapter], tmp_path),
        lambda: frozen_adapters(base, [adapter]).__enter__(),
        lambda: merge(base.source, [(adapter, 1.0)], tmp_path / "out", "fp32"),
        lambda: combine([adapter], [1.0], tmp_path / "combined"),
    ):
        with pytest.raises(AdapterError, match=r"'?a'? can't be used: .*(embed_tokens|lm_head).*save_embedding_layers"):
            use()
    assert not (tmp_path / "out").exists() and not (tmp_path / "combined").exists()
    assert not any("lora" in name for name, _ in base.model.named_modules())


def test_what_servers_say_of_a_copy_depends_on_its_name(tmp_path):
    folder = save_tiny_base(tmp_path / "base", tie_word_embeddings=False)
    targeted = save(folder, tmp_path / "targeted", target_modules=["embed_tokens", "q_proj"])
    asked = save(folder, tmp_path / "asked", target_modules=["q_proj"], save_embedding_layers=True)

    def refusals(adapter):
        found = serving_findings([read_adapter(adapter)], [1.0], ["vllm"], None)
        return [finding.why for finding in found if finding.verdict == REFUSES]

    assert refusals(targeted) == []  # vLLM skips embed_tokens.base_layer.weight
    assert len(refusals(asked)) == 1 and "save_embedding_layers=False" in refusals(asked)[0]
