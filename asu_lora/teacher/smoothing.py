"""The forget-teacher of Attention Smoothing Unlearning: the frozen base with its attention heated.

Inside ``attention_smoothing(model, tau)`` every attention softmax of the text decoder is
``softmax(Q K^T / (tau * sqrt(d)))`` (arXiv 2603.01285). No weight is copied: an attention module of
transformers multiplies its logits by a number it holds, mostly ``module.scaling``, and that number is divided
by tau for the time being. Whatever else shapes the logits is divided with it: the cap of soft-capped
attention, ``softmax(cap * tanh(s q k / cap) / tau)``, and the logits of attention sinks.

A model is believed only after a trial: see :mod:`asu_lora.teacher.smoothing_trial`.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from asu_lora.errors import SettingError, SmoothingError
from asu_lora.models.decoder import base_model, class_name, decoder_and_layers, number_of_layers
from asu_lora.teacher.attention_scale import attentions_of, heated
from asu_lora.teacher.smoothing_trial import verdicts_on


@contextmanager
def attention_smoothing(model: nn.Module, tau: float, layers: Iterable[int] | None = None) -> Iterator[None]:
    """Run the attention of ``model`` at temperature ``tau`` inside the ``with`` block.

    Args:
        model: a transformers causal language model, or a PEFT model around one (whether its adapters are on
            is the caller's business); any dtype, device, quantisation and attention implementation.
        tau: temperature, dimensionless, at least 1; 1 changes nothing.
        layers: indices of the decoder layers to smooth, counted from 0; all of them when None. An attention
            module that layers share is smoothed in all of these.

    On leaving, also by an exception, every module holds the very objects it held before. Nested blocks
    multiply: 2 inside 3 is 6 in the layers they share. It is the model itself that changes, so another thread
    that runs it meanwhile gets the heated one, and a ``state_dict`` taken inside holds heated sinks.

    The trial runs once a model object and attention implementation: a forward
    pass of 7 tokens and a few replays, in evaluation mode, whose end restores training modes and random
    state. Its verdict is about the weights of that moment. Weights on the meta device can't be tried:
    there every layer that holds a scale is believed.

    Raises:
        SettingError: tau is no finite number of 1 or more, or layers is empty or out of range.
        SmoothingError: a chosen layer can't be smoothed; the message names the model, the layer and why.
    """
    tau = _checked_tau(tau)
    chosen = None if layers is None else _checked_layers(layers, number_of_layers(model))
    if tau == 1:
        yield
        return
    stack, verdicts = decoder_and_layers(model)[1], verdicts_on(model)
    chosen = list(range(len(stack))) if chosen is None else chosen
    refuse_unsmoothable(model, chosen, verdicts)
    with heated([module for index in chosen for module in attentions_of(stack[index])], tau):
        yield


def refuse_unsmoothable(model: nn.Module, layers: Iterable[int], verdicts: Sequence[str | None]) -> None:
    """Refuse the first of these layers that has a reason against it.

    Args:
        verdicts: one a layer, see :func:`~asu_lora.teacher.smoothing_trial.verdicts_on`.

    Raises:
        SmoothingError: naming the model, the layer, the reason and what could be smoothed.
    """
    stack = decoder_and_layers(model)[1]
    for index in layers:
        if verdicts[index] is not None:
            able = [i for i, reason in enumerate(verdicts) if reason is None]
            way_out = f"layers {able} can be" if able else "choose another base, none of its layers can be"
            raise SmoothingError(
                f"{class_name(base_model(model))} can't be smoothed in layer {index} ({class_name(stack[index])}): "
                f"{verdicts[index]}; {way_out}."
            )


def attention_modules(model: nn.Module, layers: Iterable[int] | None = None) -> list[nn.Module]:
    """The attention modules that :func:`attention_smoothing` heats in ``layers`` (all of them when None).

    Raises as it does for layers that don't exist and for what isn't a decoder-only model of transformers.
    """
    stack = decoder_and_layers(model)[1]
    chosen = range(len(stack)) if layers is None else _checked_layers(layers, len(stack))
    return list(dict.fromkeys(module for index in chosen for module in attentions_of(stack[index])))


def _checked_tau(tau: float) -> float:
    try:
        value = float(tau)
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value >= 1):
        raise SettingError(f"The temperature tau must be a finite number of at least 1, not {tau!r}.")
    return value


def _checked_layers(layers: Iterable[int], count: int) -> list[int]:
    chosen = list(layers) if isinstance(layers, Iterable) else [None]
    if not chosen:
        raise SettingError("There are no layers to smooth: name at least one index, or none at all for every layer.")
    for index in chosen:
        if isinstance(index, bool) or index not in range(count):
            raise SettingError(f"The layers to smooth must be indices from 0 to {count - 1}, not {layers!r}.")
    return sorted({int(index) for index in chosen})
