"""A synthetic sharded checkpoint of any size, and a LoRA on all its linear layers, to be merged."""

import json
from pathlib import Path

GB = 1e9
SHARD = 1_000_000_000
CONFIG = dict(
    vocab_size=49152,
    hidden_size=2048,
    intermediate_size=8192,
    num_attention_heads=32,
    num_key_value_heads=32,
    max_position_embeddings=8192,
    rope_theta=130000.0,
    rms_norm_eps=1e-5,
    tie_word_embeddings=True,
    bos_token_id=1,
    eos_token_id=2,
    dtype="bfloat16",
)
LINEAR = {
    "self_attn.q_proj": (2048, 2048),
    "self_attn.k_proj": (2048, 2048),
    "self_attn.v_proj": (2048, 2048),
    "self_attn.o_proj": (2048, 2048),
    "mlp.gate_proj": (8192, 2048),
    "mlp.up_proj": (8192, 2048),
    "mlp.down_proj": (2048, 8192),
}


def build(folder: Path, gb: float) -> None:
    """The checkpoint in shards of 1 GB and the adapter; weights from a fixed seed."""
    import torch
    from peft import LoraConfig
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    torch.manual_seed(0)
    embedding = CONFIG["vocab_size"] * CONFIG["hidden_size"] * 2
    layer = sum(rows * columns for rows, columns in LINEAR.values()) * 2
    layers = max(1, round((gb * GB - embedding) / layer))
    shapes = {
        "model.embed_tokens.weight": (CONFIG["vocab_size"], CONFIG["hidden_size"]),
        "model.norm.weight": (CONFIG["hidden_size"],),
    }
    for index in range(layers):
        shapes |= {f"model.layers.{index}.{name}.weight": shape for name, shape in LINEAR.items()}
        shapes |= {
            f"model.layers.{index}.{name}.weight": (2048,) for name in ("input_layernorm", "post_attention_layernorm")
        }
    shards: list[list[str]] = [[]]
    size = 0
    for name, shape in shapes.items():
        count = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        if size + count > SHARD and shards[-1]:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += count
    base = folder / "base"
    base.mkdir(parents=True)
    weight_map = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys(names, file)
        tensors = {
            name: (torch.ones(shapes[name]) if len(shapes[name]) == 1 else torch.randn(shapes[name]) * 0.02).bfloat16()
            for name in names
        }
        save_file(tensors, base / file, metadata={"format": "pt"})
    (base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    config = LlamaConfig(num_hidden_layers=layers, **CONFIG)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(base)
    factors = {}
    for index in range(layers):
        for name, (rows, columns) in LINEAR.items():
            key = f"base_model.model.model.layers.{index}.{name}"
            factors[f"{key}.lora_A.weight"] = torch.randn(8, columns) * 0.02
            factors[f"{key}.lora_B.weight"] = torch.randn(rows, 8) * 0.02
    (folder / "adapter").mkdir()
    save_file(factors, folder / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
    names = sorted(name.split(".")[1] for name in LINEAR)
    LoraConfig(
        r=8, lora_alpha=16, target_modules=names, task_type="CAUSAL_LM", base_model_name_or_path=str(base)
    ).save_pretrained(folder / "adapter")
