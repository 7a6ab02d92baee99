"""A checkpoint of the shape of a known model, random weights, stored in NF4: what memory and time depend on.

    python benchmarks/common/shaped_base.py TOKENIZER OUT --like llama-3.1-8b

TOKENIZER is a checkpoint whose tokenizer is taken (with fewer words than the model has). The weights are drawn and
quantised layer by layer, on the GPU where there is one, and written a file a layer: a 70B base takes 40 GB of disk and
the memory of one layer.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from bitsandbytes.nn import Linear4bit, Params4bit
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, LlamaConfig

from asu_lora.bases.quantization import NF4

COMMON = {
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
    "dtype": "bfloat16",
}
SHAPES = {
    "llama-3.1-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "llama-3-70b": {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
    },
    "tiny": {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 16},
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SPREAD = 0.02  # of the weights: transformers' own initializer_range


def save(tokenizer: str, out: Path, like: str) -> Path:
    """Write the checkpoint into the folder ``out``."""
    words = AutoTokenizer.from_pretrained(tokenizer)
    special = {f"{which}_token_id": getattr(words, f"{which}_token_id") for which in ("bos", "eos", "pad")}
    config = LlamaConfig(**COMMON | SHAPES[like] | special, architectures=["LlamaForCausalLM"])
    compute = torch.bfloat16
    quantisation = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=compute, **NF4)
    config.quantization_config = quantisation.to_dict()
    out.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(out)
    words.save_pretrained(out)
    del config.quantization_config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=compute)
    torch.manual_seed(0)
    index = {}
    for name, tensors in parts(model):
        file = f"model-{name}.safetensors"
        save_file(tensors, out / file, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, file)
    (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return out


def parts(model: torch.nn.Module) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """The tensors of each decoder layer, then all others, on the CPU."""
    layers = model.get_decoder().layers
    for number, layer in enumerate(layers):
        prefix = f"model.layers.{number}."
        tensors = {}
        for name, module in layer.named_modules():
            if isinstance(module, torch.nn.Linear):
                tensors |= quantised(prefix + name, module)
            elif getattr(module, "weight", None) is not None:
                tensors[f"{prefix}{name}.weight"] = torch.ones(module.weight.shape, dtype=torch.bfloat16)
        yield f"layer-{number:03d}", tensors
    head = model.get_output_embeddings().weight
    table = random(head.shape).cpu()
    yield (
        "rest",
        {
            "model.embed_tokens.weight": table,
            "lm_head.weight": table.flip(0).contiguous(),
            "model.norm.weight": torch.ones(head.shape[1], dtype=torch.bfloat16),
        },
    )


def random(shape: torch.Size) -> torch.Tensor:
    return torch.randn(shape, device=DEVICE, dtype=torch.bfloat16) * SPREAD


def quantised(name: str, module: torch.nn.Linear) -> dict[str, torch.Tensor]:
    """What bitsandbytes stores of a linear layer, weight and scales."""
    layer = Linear4bit(
        module.in_features,
        module.out_features,
        bias=False,
        compute_dtype=torch.bfloat16,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    layer.weight = Params4bit(
        random(module.weight.shape), requires_grad=False, compress_statistics=True, quant_type="nf4"
    )
    layer.to(DEVICE)
    return {key: value.cpu().contiguous() for key, value in layer.state_dict(prefix=f"{name}.").items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer")
    parser.add_argument("out", type=Path)
    parser.add_argument("--like", choices=SHAPES, default="llama-3.1-8b")
    arguments = parser.parse_args()
    save(arguments.tokenizer, arguments.out, arguments.like)
