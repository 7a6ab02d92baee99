"""A small copy of a base with random weights, on which a dry run tries what the run tries on the base itself.

Whether a layer's attention can be smoothed, and whether logits come straight from the output head, is the code's
doing and not the weights'. So a copy tells: with the base's attention, few layers, a narrow MLP and few words. Where
none can be made, the base's own modules still tell which of its layers have no attention at all.
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

    Of a base whose copy can't be made small, or doesn't run, only what its modules tell is said.

    Args:
        model: the base on the meta device.
        layers: those to be smoothed; empty for none, None for all.

    Raises:
        SmoothingError: as :func:`~asu_lora.teacher.smoothing.attention_smoothing` does.
        BaseModelError: as :class:`~asu_lora.models.output_head.FrozenHead` does.
    """
    stack = decoder_and_layers(model)[1]
    verdicts = verdicts_on(model)  # without weights: whether a layer holds a scale at all
    told = _told_by_a_copy(config, stack, trust_remote_code)
    verdicts = [reason or told.get(_kind(layer)) for reason, layer in zip(verdicts, stack, strict=True)]
    refuse_unsmoothable(model, range(len(stack)) if layers is None else layers, verdicts)


def _told_by_a_copy(
    config: PretrainedConfig, stack: nn.ModuleList, trust_remote_code: bool
) -> dict[tuple[str, ...], str | None]:
    """{kind of layer: the reason against it, or None}, of the smallest copy that runs; empty without one."""
    few = _kinds_end(stack)
    for layers in dict.fromkeys((few, max(few, 2), len(stack))):  # RWKV divides by the number of layers less one
        try:
            small = _small_copy(config, layers, trust_remote_code)
        except _TooLarge:  # and one of more layers would be no smaller
            break
        if small is None:
            continue
        try:
            FrozenHead(small)
        except BaseModelError as error:
            if error.__cause__ is None:
                raise
            continue  # the copy, and not the base, may be what doesn't run
        try:
            found = verdicts_on(small)
        except AsuLoraError:
            continue
        return {_kind(layer): reason for layer, reason in zip(decoder_and_layers(small)[1], found, strict=True)}
    return {}


def _kind(layer: nn.Module) -> tuple[str, ...]:
    return type(layer).__name__, *sorted(type(module).__name__ for module in attentions_of(layer))


def _kinds_end(stack: nn.ModuleList) -> int:
    """So many of the first layers are of every kind that there is."""
    kinds = [_kind(layer) for layer in stack]
    return 1 + max(kinds.index(kind) for kind in set(kinds))


class _TooLarge(Exception):
    """A copy would have more than :data:`MOST_PARAMETERS`."""


def _small_copy(config: PretrainedConfig, layers: int, trust_remote_code: bool) -> PreTrainedModel | None:
    small = copy.deepcopy(config)
    text = small.get_text_config()
    number = text.num_hidden_layers
    for name, value in vars(text).copy().items():
        if isinstance(value, int) and ("intermediate_size" in name or name in _WIDTHS):
            setattr(text, name, NARROW)
        elif isinstance(value, list) and len(value) == number:  # one entry a layer: its type, its width, ...
            vars(text)[name] = value[:layers]
    try:
        if text.num_hidden_layers != layers:  # some configs count their layers themselves
            text.num_hidden_layers = layers
        text.vocab_size = WORDS
        for part in (small, text):
            part.pad_token_id = part.bos_token_id = part.eos_token_id = None
        with torch.device("meta"):
            size = sum(p.numel() for p in _build(small, trust_remote_code).parameters())
        if size > MOST_PARAMETERS:
            raise _TooLarge
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = _build(small, trust_remote_code, torch.float32 if size <= IN_FULL else torch.bfloat16).eval()
            _shake(made)
            return made
    except _TooLarge:
        raise
    except Exception:  # a model's own code raises errors of every kind at sizes that it doesn't know
        return None


def _shake(model: PreTrainedModel) -> None:
    """Weights as large as trained ones: beside a fresh model's (0.02), what a state space mixes goes unseen."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.normal_(0, module.in_features**-0.5)


def _build(config: PretrainedConfig, trust_remote_code: bool, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    return model.requires_grad_(False)
