"""A small model whose weight is in its embeddings: Gemma 3's architecture, random weights, 262,144 words.

    python benchmarks/common/gemma_like.py TOKENIZER OUT --vocabulary 262144

TOKENIZER is a checkpoint whose tokenizer is taken (with fewer words than the model has).
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig


def save(tokenizer: str, out: Path, vocabulary: int) -> Path:
    words = AutoTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(0)
    Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=vocabulary,
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=8,
            num_attention_heads=4,
            num_key_value_heads=1,
            head_dim=64,
            sliding_window=512,
            max_position_embeddings=2048,
            pad_token_id=words.pad_token_id,
            eos_token_id=words.eos_token_id,
            bos_token_id=words.bos_token_id,
        )
    ).save_pretrained(out)
    words.save_pretrained(out)
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer")
    parser.add_argument("out", type=Path)
    parser.add_argument("--vocabulary", type=int, default=262_144)
    arguments = parser.parse_args()
    save(arguments.tokenizer, arguments.out, arguments.vocabulary)
