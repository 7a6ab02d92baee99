"""Loading a base: what it refuses, and that an NF4 base stays differentiable after a teacher's pass."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from asu_lora.config import ForgetConfig
from asu_lora.errors import BaseModelError, SettingError
from asu_lora.models.loading import load_base
from asu_lora.training.new_adapter import add_adapter
from asu_lora.training.student import Student
from tests.support.hub_server import hub
from tests.support.tiny_base import save_tiny_base, tiny_tokenizer

KERNELS_KEPT = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


@pytest.mark.parametrize("given, kept", [(None, "16"), ("512", "512")])
def test_few_compiled_kernels_are_kept_unless_asked_otherwise(tiny_base, given, kept, monkeypatch):
    monkeypatch.setenv(KERNELS_KEPT, given or "")
    if given is None:
        monkeypatch.delenv(KERNELS_KEPT)
    load_base(str(tiny_base), "fp32", "cpu")
    assert os.environ[KERNELS_KEPT] == kept


def gradients(base, first_teacher: bool):
    """LoRA gradients of one step of an NF4 base, optionally after a pass in eval mode."""
    ids = torch.arange(3, 35)[None]
    if first_teacher:
        with torch.no_grad():
            base.model(input_ids=ids)
    torch.manual_seed(0)
    student = add_adapter(base.model, ForgetConfig())
    for name, parameter in student.named_parameters():
        if "lora_B" in name:  # B starts at zero, and with it A's gradient
            torch.nn.init.normal_(parameter, std=0.05)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "positions": torch.arange(8, 31)}
    states = Student(student).train()([batch]).float()
    # not their squares: the final norm keeps the sum of those as it is, and leaves a gradient of rounding errors
    (states * torch.randn(states.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
    return {name: p.grad.clone() for name, p in student.named_parameters() if p.requires_grad}


def test_gradients_flow_through_an_nf4_base_that_has_been_a_teacher(tiny_base, nf4_compute):
    """Against the same step on the dequantised weights, in plain fp32."""
    nf4 = load_base(str(tiny_base), "nf4", "cpu")
    plain = load_base(str(tiny_base), "fp32", "cpu")
    import bitsandbytes as bnb

    for (name, module), (_, twin) in zip(nf4.model.named_modules(), plain.model.named_modules(), strict=True):
        if isinstance(module, bnb.nn.Linear4bit):
            assert type(twin) is torch.nn.Linear, name
            weight = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            twin.weight.data = weight.float()
    ours, expected = gradients(nf4, True), gradients(plain, False)
    assert ours.keys() == expected.keys()
    together, wanted = (torch.cat([g[name].float().flatten() for name in expected]) for g in (ours, expected))
    assert (together - wanted).norm() / wanted.norm() < (1e-4 if nf4_compute == "fp32" else 0.1)


def test_a_model_that_is_no_causal_lm_is_refused_by_what_it_is(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertForMaskedLM"]}))
    with pytest.raises(BaseModelError, match="BertForMaskedLM"):
        load_base(str(tmp_path), "fp32", "cpu")


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nothing", "~/asu-lora-nothing"])
def test_a_missing_folder_is_named(name):
    with pytest.raises(BaseModelError, match="no checkpoint folder"):
        load_base(name)


def test_a_hub_id_without_a_hub_says_so():
    with pytest.raises(BaseModelError, match="smollm2-135m"):
        load_base("someone/some-model-that-is-not-cached")


def test_a_folder_without_safetensors_is_refused(tiny_base, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(tiny_base, folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(BaseModelError):
        load_base(str(folder), "fp32", "cpu")


def test_precisions_and_devices_outside_their_range():
    with pytest.raises(SettingError, match="int3"):
        load_base("smollm2-135m", "int3")
    with pytest.raises(SettingError, match="nowhere"):
        load_base("smollm2-135m", "nf4", "nowhere")


def test_the_fingerprint_is_of_the_weights_not_of_the_files(tiny_base, tmp_path):
    from transformers import AutoModelForCausalLM

    from asu_lora.bases.source import resolve_base

    one = resolve_base(str(tiny_base)).fingerprint()
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert resolve_base(str(tmp_path / "shards")).fingerprint() == one
    other = save_tiny_base(tmp_path / "other", seed=1)
    assert resolve_base(str(other)).fingerprint() != one


def test_the_head_is_fed_in_one_piece_however_it_is_called(tiny_base):
    base = load_base(str(tiny_base), "fp32", "cpu")
    head, heard = base.model.get_output_embeddings(), []
    head.register_forward_pre_hook(
        lambda module, args, kwargs: heard.append((*args, *kwargs.values())), with_kwargs=True
    )
    states = torch.randn(3, 5, 64)[:, -1:]
    assert not states.is_contiguous()
    assert torch.equal(head(states), head(input=states))
    assert [value.is_contiguous() for values in heard for value in values] == [True, True]


def test_everything_a_base_needs_is_fetched_from_the_hub_and_no_pickle(tiny_base, tmp_path):
    """Through the real client, from a hub on this machine."""
    there = tmp_path / "hub" / "me" / "base"
    shutil.copytree(tiny_base, there)
    wanted = (
        "LICENSE",
        "LICENSE.txt",
        "NOTICE",
        "qwen.tiktoken",
        "tokenizer.model.v3",
        "tokenizer.model",
        "additional_chat_templates/tool_use.jinja",
        "modeling_own.py",
    )
    for name in (*wanted, "pytorch_model.bin", "README.md", "original/consolidated.00.pth"):
        (there / name).parent.mkdir(exist_ok=True)
        (there / name).write_text("content")
    here = {path.relative_to(tiny_base).as_posix() for path in tiny_base.rglob("*") if path.is_file()}
    with hub(tmp_path / "hub") as (address, _):
        environment = os.environ | {
            "HF_ENDPOINT": address,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        code = "from asu_lora.bases.source import resolve_base; print(resolve_base('me/base').path)"
        found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    folder = Path(found.stdout.strip().splitlines()[-1])
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == here | set(wanted)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_base_that_is_stored_quantised_is_computed_in_one_type(tiny_base, tmp_path, stored, bits, nf4_compute):
    """With a norm that lifts activations beyond fp16's largest number, where the compute type holds them."""
    settings = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"} if bits == 4 else {"load_in_8bit": True}
    model = AutoModelForCausalLM.from_pretrained(
        tiny_base, dtype=stored, quantization_config=BitsAndBytesConfig(**settings)
    )
    model.model.norm.weight.data.fill_(6e4)
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    base = load_base(str(tmp_path), "nf4", "cpu")
    held = stored if stored == torch.float32 else base.compute_dtype
    assert base.head.dtype == held  # its trial looks at the states, which fp16 can't hold
    assert {p.dtype for p in base.model.parameters() if p.is_floating_point()} == {held}
    assert base.model.lm_head.weight is base.model.model.embed_tokens.weight
