"""Real PEFT adapters on tiny bases, filled so that they change something, and their stack in plain PEFT."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GPT2Config, GPT2LMHeadModel

from asu_lora.adapters.lora_folder import read_lora
from asu_lora.merging.checkpoint.tensor_reader import LazyTensorReader

NF4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IDS = torch.arange(3, 43).reshape(2, 20)


def save_tiny_gpt2(folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=320, n_positions=64, n_embd=64, n_layer=2, n_head=4)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def save_lora(base: Path, folder: Path, seed: int = 0, size: float = 0.05, **settings) -> Path:
    """Train nothing: give every factor random values of a size that moves the logits clearly."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]} | settings
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                parameter.normal_(std=size)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def lean(folders: list[Path], share: float = 0.6) -> list[Path]:
    """Let adapters go along one another, as those of one base do: with one A, and in B a part that all have."""
    first = load_file(folders[0] / "adapter_model.safetensors")
    for folder in folders:
        torch.manual_seed(0)
        own = load_file(folder / "adapter_model.safetensors")
        for key in sorted(own):
            own[key] = (
                first[key] if "lora_A" in key else own[key] + share * own[key].std() * torch.randn(own[key].shape)
            )
        save_file(own, folder / "adapter_model.safetensors", {"format": "pt"})
    return folders


def stacked(base: Path, adapters: list[tuple[Path, float]], **loading):
    """Base and adapters in plain PEFT, all active, each at its weight."""
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    model = AutoModelForCausalLM.from_pretrained(base, **({"dtype": torch.float32} | loading))
    model = PeftModel.from_pretrained(model, adapters[0][0], adapter_name="0")
    for number, (folder, _) in enumerate(adapters[1:], 1):
        model.load_adapter(folder, adapter_name=str(number))
    model.base_model.set_adapter([str(number) for number in range(len(adapters))])
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            for number, (_, weight) in enumerate(adapters):
                if str(number) in layer.scaling:
                    layer.scaling[str(number)] *= weight
    return model.eval()


@torch.no_grad()
def logits_of(model_or_folder, **loading) -> torch.Tensor:
    """Logits (2, 20, vocabulary) of fixed tokens, fp32."""
    model = model_or_folder
    if isinstance(model, (str, Path)):
        model = AutoModelForCausalLM.from_pretrained(model, **({"dtype": torch.float32} | loading))
    return model.eval()(IDS).logits.float()


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return (torch.linalg.vector_norm(one - other) / torch.linalg.vector_norm(other)).item()


def give_manifest(folder: Path, base: Path, precision: str = "fp32", fingerprint: str | None = None, **fields) -> Path:
    """Write the manifest that `asu-lora forget` would leave."""
    from asu_lora.adapters.manifest import BaseRecord, Manifest, MethodRecord, RequestRecord, write_manifest
    from asu_lora.bases.fingerprint import weights_fingerprint

    record = BaseRecord(
        id=str(base),
        fingerprint=fingerprint or weights_fingerprint(base),
        precision=precision,
        quantization=NF4 if precision == "nf4" else None,
    )
    request = RequestRecord(fingerprint=folder.name, forget_rows=3, forget_tokens=30, retain_rows=5)
    write_manifest(
        folder, Manifest(name=folder.name, base=record, method=MethodRecord(objective="asu"), request=request, **fields)
    )
    return folder


def nf4(double_quant=True):
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32,
        bnb_4bit_use_double_quant=double_quant,
    )


def in_fp32(model):
    """Keep bitsandbytes from its kernel for CPUs with bf16 units: it computes in bf16 whatever it is told."""
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False
    return model


def tensors_of(folder):
    with LazyTensorReader(folder) as reader:
        return {name: reader.read(name).clone() for name in reader.tensors}


def update_of(adapters, module):
    """The weighted sum of the adapters' updates of a module, as a full fp32 matrix (out, in)."""
    total = 0
    for folder, weight in adapters:
        lora = read_lora(folder)
        if module in lora.modules:
            a, b = lora.factors(module)
            total = total + weight * lora.modules[module].scaling * (b @ a)
    return total


def save_two(base: Path, folder: Path) -> list[tuple[Path, float]]:
    """Two adapters that share modules, one plain and one with rsLoRA and a rank pattern, with weights."""
    return [
        (save_lora(base, folder / "a", seed=1, target_modules=LINEAR), 1.0),
        (save_lora(base, folder / "b", seed=2, r=7, use_rslora=True, rank_pattern={"layers.0.*v_proj": 2}), 0.5),
    ]


def change_manifest(folder: Path, how: Callable[[dict], Any]) -> None:
    """Let ``how`` change what the manifest of an adapter says."""
    manifest = json.loads((folder / "manifest.json").read_text())
    how(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def two_adapters(tiny_base, tmp_path_factory) -> list[tuple[Path, float]]:
    """Of :func:`save_two`, on the tiny base."""
    return save_two(tiny_base, tmp_path_factory.mktemp("loras"))
