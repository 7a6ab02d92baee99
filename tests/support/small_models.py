"""Four-layer models of many architectures, with random weights."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

SMALL = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=64,
    pad_token_id=0,
)


def model_of(kind: str):
    torch.manual_seed(0)
    special = {
        "gpt2": dict(n_embd=32, n_layer=4, n_head=4, n_positions=64),
        "opt": dict(ffn_dim=48, word_embed_proj_dim=32),
        "gemma2": dict(sliding_window=8),
        "mistral": dict(sliding_window=8),
    }
    config = AutoConfig.for_model(kind, **(SMALL | special.get(kind, {})))
    return AutoModelForCausalLM.from_config(config).eval()
