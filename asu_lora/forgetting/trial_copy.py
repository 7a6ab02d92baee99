"""A small copy of a base with random weights, on which a dry run tries what the run tries on the base itself.

Whether a layer's attention can be smoothed, and whether logits come straight from the output head, is the code's
doing and not the weights'. So a copy tells: with the base's attention, few layers, a narrow MLP and few words.
"""

import copy
from collections.abc import Sequence

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from asu_lora.errors import AsuLoraError, BaseModelError
from asu_lora.models.decoder import decoder_and_layers
from asu_lora.models.output_head import FrozenHead
from asu_lora.teacher.attention_scale import attentions_of
from asu_lora.teacher.smoothing import refuse_unsmoothable
from asu_lora.teacher.smoothing_trial import verdicts_on

MOST_PARAMETERS = 250_000_000  # half a GB in bf16; beyond it the run itself finds out
IN_FULL = 50_000_000  # up to here in fp32
WORDS, NARROW = 64, 32
_WIDTHS = ("ffn_dim", "ffn_hidden_size", "n_inner", "d_ff")


def refuse_untried(
    model: PreTrainedModel, config: PretrainedConfig, layers: Sequence[int] | None, trust_remote_code: bool = False
) -> None:
    """Refuse what the run would refuse after a trial on the loaded base.

    Nothing is said of a base whose copy can't be made small, or doesn't run.

    Args:
        model: the base on the meta device.
        layers: those to be smoothed; empty for none, None for all.

    Raises:
        SmoothingError: as :func:`~asu_lora.teacher.smoothing.attention_smoothing` does.
        BaseModelError: as :class:`~asu_lora.models.output_head.FrozenHead` does.
    """
    stack = decoder_and_layers(model)[1]
    small = _small_copy(config, _kinds_end(stack), trust_remote_code)
    if small is None:
        return
    try:
        FrozenHead(small)
        found = verdicts_on(small)
    except AsuLoraError as error:
        if error.__cause__ is None and isinstance(error, BaseModelError):
            raise
        return  # the copy, and not the base, may be what doesn't run
    told = {_kind(layer): reason for layer, reason in zip(decoder_and_layers(small)[1], found, strict=True)}
    verdicts = [told.get(_kind(layer)) for layer in stack]
    refuse_unsmoothable(model, range(len(stack)) if layers is None else layers, verdicts)


def _kind(layer: nn.Module) -> tuple[str, ...]:
    return type(layer).__name__, *sorted(type(module).__name__ for module in attentions_of(layer))


def _kinds_end(stack: nn.ModuleList) -> int:
    """So many of the first layers are of every kind that there is."""
    kinds = [_kind(layer) for layer in stack]
    return 1 + max(kinds.index(kind) for kind in set(kinds))


def _small_copy(config: PretrainedConfig, layers: int, trust_remote_code: bool) -> PreTrainedModel | None:
    small = copy.deepcopy(config)
    text = small.get_text_config()
    for name, value in vars(text).copy().items():
        if isinstance(value, int) and ("intermediate_size" in name or name in _WIDTHS):
            setattr(text, name, NARROW)
    if isinstance(getattr(text, "layer_types", None), list):
        text.layer_types = text.layer_types[:layers]
    text.num_hidden_layers, text.vocab_size = layers, WORDS
    for part in (small, text):
        part.pad_token_id = part.bos_token_id = part.eos_token_id = None
    try:
        with torch.device("meta"):
            size = sum(p.numel() for p in _build(small, trust_remote_code).parameters())
        if size > MOST_PARAMETERS:
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _build(small, trust_remote_code, torch.float32 if size <= IN_FULL else torch.bfloat16).eval()
    except Exception:  # a model's own code raises errors of every kind at sizes that it doesn't know
        return None


def _build(config: PretrainedConfig, trust_remote_code: bool, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    return model.requires_grad_(False)
