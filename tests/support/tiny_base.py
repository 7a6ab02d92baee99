"""The tiny base of the tests is that of the benchmarks: one model, made in one place."""

from benchmarks.common.tiny_base import TEMPLATE, save_tiny_base, tiny_config, tiny_tokenizer

__all__ = ["TEMPLATE", "save_tiny_base", "tiny_config", "tiny_tokenizer"]
