"""The text decoder inside a causal language model, whoever wraps it."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from asu_lora.errors import SmoothingError


def base_model(model: nn.Module) -> PreTrainedModel:
    """The model that a PEFT model wraps, or the model itself."""
    unwrap = getattr(model, "get_base_model", None)
    return cast(PreTrainedModel, unwrap() if callable(unwrap) else model)


def decoder_of(model: nn.Module) -> PreTrainedModel:
    """The base without its head, adapters and all; transformers itself gives the whole Llama 4 of text for it.

    Raises:
        SmoothingError: its output is more than one linear layer on the decoder's states.
    """
    base = base_model(model)
    decoder = base.get_decoder()
    if isinstance(decoder, nn.Linear):  # ModernBERT calls its output layer the decoder
        raise SmoothingError(
            f"{class_name(base)} can't be unlearned here: between its layers and its output layer stands a head of its "
            "own, which would be left out; use a base of another architecture."
        )
    inner = (module for module in base.children() if isinstance(module, PreTrainedModel))
    return cast(PreTrainedModel, next(inner, decoder) if decoder is base else decoder)


def text_config(model: nn.Module) -> PretrainedConfig:
    """The config of the text decoder, where there are others beside it."""
    return base_model(model).config.get_text_config()


def decoder_and_layers(model: nn.Module) -> tuple[nn.Module, nn.ModuleList]:
    """The text decoder and the list of its layers."""
    base = base_model(model)
    if not hasattr(base, "get_decoder") or getattr(getattr(base, "config", None), "is_encoder_decoder", False):
        raise SmoothingError(f"{class_name(base)} can't be smoothed: it is no decoder-only model of transformers.")
    count = text_config(base).num_hidden_layers
    decoders: tuple[nn.Module, ...] = (decoder_of(base), base.base_model)
    for decoder in decoders:
        for module in decoder.modules():
            if isinstance(module, nn.ModuleList) and len(module) == count:
                return decoder, module
    raise SmoothingError(f"{class_name(base)} can't be smoothed: it has no list of its {count} decoder layers.")


def number_of_layers(model: nn.Module) -> int:
    """How many decoder layers ``model`` (or the model a PEFT model wraps) has.

    Raises SmoothingError for what isn't a decoder-only model of transformers.
    """
    return len(decoder_and_layers(model)[1])


def attention_of(decoder: nn.Module) -> str:
    """The attention implementation that a decoder uses, as transformers calls it."""
    return str(cast(PreTrainedModel, decoder).config._attn_implementation or "eager")


def class_name(module: nn.Module) -> str:
    return type(module).__name__


def states_entering(args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """The hidden states, (b, L, H), among the arguments that a decoder layer is called with."""
    return args[0] if args else kwargs["hidden_states"]


def answer_hidden(decoder: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Final hidden states (t, H) at a pass's answer positions.

    Args:
        decoder: the base without its head (:func:`decoder_of`), adapters and all.
        batch: what :func:`pad_group` or :func:`pack_group` gave, on the decoder's device. (An ``entry`` is the
            caller's business.)
    """
    kept_apart = {name: batch[name] for name in ("attention_mask", "position_ids") if name in batch}
    hidden = decoder(input_ids=batch["input_ids"], **kept_apart, use_cache=False).last_hidden_state
    return hidden.flatten(0, 1)[batch["positions"]]
