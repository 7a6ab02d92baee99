"""The forget-teacher of Attention Smoothing Unlearning: the frozen base with its attention heated.

Inside ``attention_smoothing(model, tau)`` every attention softmax of the text decoder is
``softmax(Q K^T / (tau * sqrt(d)))`` (arXiv 2603.01285). No weight is copied: an attention module of
transformers multiplies its logits by a number it holds, mostly ``module.scaling``, and that number is divided
by tau for the time being. Whatever else shapes the logits is divided with it: the cap of soft-capped
attention, ``softmax(cap * tanh(s q k / cap) / tau)``, and the logits of attention sinks.

A model is believed only after a trial. Seven tokens pass through the decoder, each attention module is
replayed on what it received with its scale halved, and the logits that reach its softmax must come out
halved. A fixed scale, a position bias, an unknown sink or a layer that also mixes tokens some other way
(Mamba, convolution, linear attention) fails, and the model is refused by name. The trial's temperature is 2
because halving is exact in every floating-point format: neither bfloat16 nor NF4 weights blur the verdict.
Nor do attention outputs of zero, for the logits are judged and not what becomes of them.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from asu_lora.errors import SettingError, SmoothingError

# What attention modules of transformers call the numbers their logits are proportional to.
_FACTORS = (
    "scaling",  # nearly all; OPT and XGLM multiply the queries by it
    "scale",
    "softmax_scale",
    "inv_norm_factor",  # Bloom, Falcon with ALiBi
    "beta",  # Bloom: the weight of ALiBi
    "attn_logit_softcapping",  # Gemma 2: cap/tau tanh(s/tau qk / (cap/tau)) = cap tanh(s qk / cap) / tau
)
_DIVISORS = ("scale_attn",)  # GPT-J, CodeGen: the logits are divided by it
_SINKS = ("sinks",)  # gpt-oss: logits of their own, one a head, beside those of the keys

_PROBE_TOKENS = 7  # no usual number of heads, streams or experts, so the token axis is found by its length
_SOFTMAXES = {F.softmax, torch.softmax, torch.special.softmax, Tensor.softmax}
_NO_ATTENTION = "it has no softmax attention with a scale to divide"

# decoder -> {what the verdict depends on: one reason against (or None) a layer}
_VERDICTS: WeakKeyDictionary[nn.Module, dict[tuple, list[str | None]]] = WeakKeyDictionary()


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

    The trial (see the module's docstring) runs once a model object and attention implementation: a forward
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
    stack, verdicts = decoder_and_layers(model)[1], _verdicts(model)
    chosen = range(len(stack)) if chosen is None else chosen
    for index in chosen:
        if verdicts[index] is not None:
            able = [i for i, reason in enumerate(verdicts) if reason is None]
            way_out = f"layers {able} can be" if able else "choose another base, none of its layers can be"
            raise SmoothingError(
                f"{_name(_base(model))} can't be smoothed in layer {index} ({_name(stack[index])}): "
                f"{verdicts[index]}; {way_out}."
            )
    with _heated([module for index in chosen for module in _attentions(stack[index])], tau):
        yield


def number_of_layers(model: nn.Module) -> int:
    """How many decoder layers ``model`` (or the model a PEFT model wraps) has.

    Raises SmoothingError for what isn't a decoder-only model of transformers.
    """
    return len(decoder_and_layers(model)[1])


def smoothable_layers(model: nn.Module) -> list[int]:
    """The indices of the layers that :func:`attention_smoothing` accepts, ascending; may be empty.

    Raises SmoothingError for what isn't a decoder-only model of transformers, or can't run the trial.
    """
    return [index for index, reason in enumerate(_verdicts(model)) if reason is None]


def attention_modules(model: nn.Module, layers: Iterable[int] | None = None) -> list[nn.Module]:
    """The attention modules that :func:`attention_smoothing` heats in ``layers`` (all of them when None).

    Raises as it does for layers that don't exist and for what isn't a decoder-only model of transformers.
    """
    stack = decoder_and_layers(model)[1]
    chosen = range(len(stack)) if layers is None else _checked_layers(layers, len(stack))
    return list(dict.fromkeys(module for index in chosen for module in _attentions(stack[index])))


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
        raise SettingError(
            "There are no layers to smooth: name at least one index, or none at all for every layer."
        )
    for index in chosen:
        if isinstance(index, bool) or index not in range(count):
            raise SettingError(f"The layers to smooth must be indices from 0 to {count - 1}, not {layers!r}.")
    return sorted({int(index) for index in chosen})


def _name(module: nn.Module) -> str:
    return type(module).__name__


def _base(model: nn.Module) -> nn.Module:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def decoder_and_layers(model: nn.Module) -> tuple[nn.Module, nn.ModuleList]:
    """The text decoder and the list of its layers."""
    base = _base(model)
    config = getattr(base, "config", None)
    if not hasattr(base, "get_decoder") or getattr(config, "is_encoder_decoder", False):
        raise SmoothingError(f"{_name(base)} can't be smoothed: it is no decoder-only model of transformers.")
    count = config.get_text_config().num_hidden_layers
    for decoder in (base.get_decoder(), base.base_model):  # ModernBERT calls its output layer the decoder
        for module in decoder.modules():
            if isinstance(module, nn.ModuleList) and len(module) == count:
                return decoder, module
    raise SmoothingError(f"{_name(base)} can't be smoothed: it has no list of its {count} decoder layers.")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, Tensor)) and not isinstance(value, bool)


def _attentions(layer: nn.Module) -> list[nn.Module]:
    """The attention modules of one layer that hold a scale (a subclass goes by its parent's name too)."""
    return [
        module
        for module in layer.modules()
        if any(_is_number(vars(module).get(name)) for name in _FACTORS + _DIVISORS)
        and any("Attention" in kind.__name__ for kind in type(module).__mro__)
    ]


@contextmanager
def _heated(modules: Iterable[nn.Module], tau: float) -> Iterator[None]:
    """Divide the logits of ``modules`` by tau.

    It writes to the dictionaries beneath the attributes: a divided sink is no nn.Parameter, which setattr
    would refuse, and what comes back has to be the original object.
    """
    undo: list[tuple[dict, str, object]] = []
    try:
        for module in dict.fromkeys(modules):  # a module that two layers share is heated once
            for name in _FACTORS + _DIVISORS:
                if _is_number(value := vars(module).get(name)):
                    undo.append((vars(module), name, value))
                    vars(module)[name] = value * tau if name in _DIVISORS else value / tau
            for name in _SINKS:
                if (sink := module._parameters.get(name)) is not None:
                    undo.append((module._parameters, name, sink))
                    module._parameters[name] = sink / tau
        yield
    finally:
        for holder, name, value in undo:
            holder[name] = value


def _verdicts(model: nn.Module) -> list[str | None]:
    """For each layer the reason why it can't be smoothed, None where it can."""
    decoder, stack = decoder_and_layers(model)
    # Accelerate keeps offloaded weights on meta between calls; such a model can run.
    if all(p.is_meta for p in decoder.parameters()) and not any(
        hasattr(m, "_hf_hook") for m in decoder.modules()
    ):
        return [None if _attentions(layer) else _NO_ATTENTION for layer in stack]
    known = _VERDICTS.setdefault(decoder, {})
    key = (
        decoder.config._attn_implementation,
        *(id(module) for layer in stack for module in _attentions(layer)),
    )
    if key in known:
        return known[key]
    try:
        verdicts, telling = _trial(decoder, stack)
    except Exception as error:  # modelling code of third parties: anything can come out of it
        text = " ".join(str(error).split())[:200]
        raise SmoothingError(
            f"{_name(_base(model))} can't be smoothed: a trial run of {_PROBE_TOKENS} tokens failed with "
            f"{type(error).__name__} ({text})."
        ) from error
    if telling:  # otherwise some module's logits were all 0: right for now, but no word about other weights
        known[key] = verdicts
    return verdicts


@torch.no_grad()
def _trial(decoder: nn.Module, stack: nn.ModuleList) -> tuple[list[str | None], bool]:
    """The verdicts by behaviour, and whether every module had logits that differ."""
    native = decoder.config._attn_implementation or "eager"
    # Logits can be read from a softmax or an SDPA call, not from a flash or flex kernel. For those the
    # formula is checked in eager mode, and then that the kernel follows the scale at all.
    readable = native if native in ("eager", "sdpa") else "eager"
    verdicts, telling, moved = [], True, []
    with _undisturbed(decoder):
        calls = _record_calls(decoder, stack, readable)
        for index, layer in enumerate(stack):
            attentions = _attentions(layer)
            verdicts.append(None if attentions else _NO_ATTENTION)
            for module in attentions:
                if module not in calls:
                    verdicts[index] = f"its {_name(module)} took no part in a trial run"
                    continue
                (before, cold), (after, hot) = (_replay(module, calls[module], tau) for tau in (1.0, 2.0))
                if not cold:
                    verdicts[index] = f"its {_name(module)} computes no softmax that can be seen"
                elif len(cold) != len(hot) or not all(map(_is_halved, cold, hot)):
                    verdicts[index] = (
                        f"dividing the scale of its {_name(module)} leaves something in its softmax as it "
                        "was (a fixed scale, a position bias, a sink)"
                    )
                telling &= verdicts[index] is not None or any(_spread(x) > 0 for x in cold)
                if not torch.equal(before, after):
                    moved.append((index, module))
            if verdicts[index] is None and _mixes_otherwise(layer, calls[layer], attentions):
                verdicts[index] = (
                    "its tokens meet outside softmax attention too (state space, convolution, recurrence)"
                )
        if readable != native:
            calls = _record_calls(decoder, stack, native)
            for index, module in moved:
                before, after = (_replay(module, calls[module], tau, read=False)[0] for tau in (1.0, 2.0))
                if verdicts[index] is None and torch.equal(before, after):
                    verdicts[index] = f"with {native} attention its {_name(module)} ignores the scale"
    return verdicts, telling


@contextmanager
def _undisturbed(decoder: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; after it training modes, random state and implementation are what they were."""
    modes = [(module, module.training) for module in decoder.modules()]
    implementation = decoder.config._attn_implementation
    with torch.random.fork_rng(devices={p.device for p in decoder.parameters() if p.is_cuda}):
        try:
            decoder.eval()
            yield
        finally:
            decoder.config._attn_implementation = {"": implementation}
            for module, mode in modes:
                module.training = mode


def _record_calls(
    decoder: nn.Module, stack: nn.ModuleList, implementation: str
) -> dict[nn.Module, tuple[tuple, dict]]:
    """What each layer and each attention module receives when the decoder reads seven different tokens."""
    decoder.config._attn_implementation = {"": implementation}  # a dictionary, to leave sub-configs alone
    calls: dict[nn.Module, tuple[tuple, dict]] = {}
    table = decoder.get_input_embeddings().weight
    ids = torch.arange(1, _PROBE_TOKENS + 1, device="cpu" if table.is_meta else table.device) % table.shape[0]

    def record(module: nn.Module, args: tuple, kwargs: dict) -> None:
        calls[module] = (args, kwargs)

    with ExitStack() as hooks:
        for module in {m for layer in stack for m in (layer, *_attentions(layer))}:
            hooks.callback(module.register_forward_pre_hook(record, with_kwargs=True).remove)
        decoder(input_ids=ids[None], use_cache=False)
    return calls


class _LogitReader(TorchFunctionMode):
    """Keeps the logits, shape (..., queries, keys), of every softmax and SDPA call beneath it."""

    def __init__(self) -> None:
        super().__init__()
        self.logits: list[Tensor] = []

    def __torch_function__(self, func: Callable, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _SOFTMAXES:
            self.logits.append((args[0] if args else kwargs["input"]).clone())
        elif func is F.scaled_dot_product_attention:
            self.logits.append(_sdpa_logits(*args, **kwargs))
        return func(*args, **kwargs)


def _sdpa_logits(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_
) -> Tensor:
    """The logits that SDPA keeps to itself, without causal masking, which no temperature changes."""
    key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    logits = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is None:
        return logits
    return logits.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else logits + attn_mask


def _replay(
    module: nn.Module, call: tuple[tuple, dict], tau: float, read: bool = True
) -> tuple[Tensor, list[Tensor]]:
    """The output of ``module`` at temperature tau and, if read, the logits of its softmaxes."""
    reader = _LogitReader()
    with _heated([module], tau), reader if read else nullcontext():
        return _first(module(*call[0], **call[1])), reader.logits


def _first(output: Tensor | tuple) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def _below_maximum(logits: Tensor) -> Tensor:
    """Logits count up to a constant a row; those 200 below the maximum have probability 0: masked."""
    return logits.float() - logits.float().amax(-1, keepdim=True)


def _spread(logits: Tensor) -> float:
    """How far the logits of any row lie apart, masked ones aside."""
    below = _below_maximum(logits)
    return float(below[below > -200].abs().max())


def _is_halved(cold: Tensor, hot: Tensor) -> bool:
    """Whether softmax(hot) is softmax(cold / 2)."""
    # Below the normal range of fp16 halving is not exact, but off by a quantum at most.
    quantum = torch.finfo(cold.dtype).smallest_normal * torch.finfo(cold.dtype).eps
    tolerance = 1e-3 * _spread(cold) + 4 * quantum
    cold, hot = _below_maximum(cold), _below_maximum(hot)
    visible = cold > -200
    return bool(((cold / 2 - hot)[visible].abs() <= tolerance).all() and (hot[~visible] < -90).all())


def _mixes_otherwise(layer: nn.Module, call: tuple[tuple, dict], attentions: list[nn.Module]) -> bool:
    """Whether a token reaches later ones with the attention modules silenced: change it, and look."""
    args, kwargs = call
    hidden = args[0] if args else kwargs["hidden_states"]  # tokens on one axis, mostly the last but one
    axis = hidden.shape.index(_PROBE_TOKENS)
    changed = hidden.clone()
    changed.movedim(axis, 0)[1] = hidden.movedim(axis, 0)[1].flip(-1)

    def silence(module: nn.Module, args: tuple, output: Tensor | tuple) -> Tensor | tuple:
        silent = torch.zeros_like(_first(output))
        return silent if isinstance(output, Tensor) else (silent, *output[1:])

    def later_tokens(states: Tensor) -> Tensor:
        output = layer(states, *args[1:], **kwargs) if args else layer(**kwargs | {"hidden_states": states})
        return _first(output).float().movedim(axis, 0)[2:]

    with ExitStack() as hooks:
        for module in attentions:
            hooks.callback(module.register_forward_hook(silence).remove)
        difference = (later_tokens(changed) - later_tokens(hidden)).abs().mean()
        added = (later_tokens(hidden) - hidden.float().movedim(axis, 0)[2:]).abs().mean()
    # Not exactly zero: quantised activations and regrouped experts make tokens round differently together.
    return not bool(difference <= added / 50)
