"""Small models whose logits are shaped in every known way: capped, multiplied, divided, projected."""

import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from tests.support.tiny_base import tiny_config

SMALL = dict(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
)
SHAPED_HEADS = {
    "llama": lambda: LlamaForCausalLM(tiny_config(vocab_size=97)),
    # caps and factors that bite at the size of a random model's logits
    "soft cap": lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=16, final_logit_softcapping=0.1)),
    "multiplied": lambda: CohereForCausalLM(CohereConfig(**SMALL, logit_scale=3.0)),
    "divided": lambda: GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=8.0)),
    "projected": lambda: OPTForCausalLM(
        OPTConfig(
            vocab_size=97,
            hidden_size=32,
            ffn_dim=48,
            num_hidden_layers=1,
            num_attention_heads=2,
            word_embed_proj_dim=16,
        )
    ),
}


def shaped_model(name: str, dtype=torch.float32):
    torch.manual_seed(0)
    return SHAPED_HEADS[name]().to(dtype).eval().requires_grad_(False)
