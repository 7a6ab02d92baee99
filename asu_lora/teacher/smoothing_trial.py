"""The trial that a model passes before its attention is smoothed.

Seven tokens pass through the decoder, each attention module is replayed on what it received with its scale
halved, and the logits that reach its softmax must come out halved. A fixed scale, a position bias, an unknown
sink or a layer that also mixes tokens some other way (Mamba, convolution, linear attention) fails, and the model
is refused by name. The trial's temperature is 2 because halving is exact in every floating-point format: neither
bfloat16 nor NF4 weights blur the verdict. Nor do attention outputs of zero, for the logits are judged and not what
becomes of them.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from asu_lora.errors import SmoothingError
from asu_lora.models.decoder import attention_of, base_model, class_name, decoder_and_layers, states_entering
from asu_lora.teacher.attention_scale import attentions_of, heated

_PROBE_TOKENS = 7  # no usual number of heads, streams or experts, so the token axis is found by its length
_SOFTMAXES = {F.softmax, torch.softmax, torch.special.softmax, Tensor.softmax}
_NO_ATTENTION = "it has no softmax attention with a scale to divide"

# decoder -> {what the verdict depends on: one reason against (or None) a layer}
_VERDICTS: WeakKeyDictionary[nn.Module, dict[tuple, list[str | None]]] = WeakKeyDictionary()


def verdicts_on(model: nn.Module) -> list[str | None]:
    """For each layer the reason why it can't be smoothed, None where it can."""
    decoder, stack = decoder_and_layers(model)
    # Accelerate keeps offloaded weights on meta between calls; such a model can run.
    if all(p.is_meta for p in decoder.parameters()) and not any(hasattr(m, "_hf_hook") for m in decoder.modules()):
        return [None if attentions_of(layer) else _NO_ATTENTION for layer in stack]
    known = _VERDICTS.setdefault(decoder, {})
    key = (attention_of(decoder), *(id(module) for layer in stack for module in attentions_of(layer)))
    if key in known:
        return known[key]
    try:
        verdicts, telling = _trial(decoder, stack)
    except Exception as error:  # modelling code of third parties: anything can come out of it
        text = " ".join(str(error).split())[:200]
        raise SmoothingError(
            f"{class_name(base_model(model))} can't be smoothed: a trial run of {_PROBE_TOKENS} tokens failed with "
            f"{type(error).__name__} ({text})."
        ) from error
    if telling:  # otherwise some module's logits were all 0: right for now, but no word about other weights
        known[key] = verdicts
    return verdicts


@torch.no_grad()
def _trial(decoder: nn.Module, stack: nn.ModuleList) -> tuple[list[str | None], bool]:
    """The verdicts by behaviour, and whether every module had logits that differ."""
    native = attention_of(decoder)
    # Logits can be read from a softmax or an SDPA call, not from a flash or flex kernel. For those the
    # formula is checked in eager mode, and then that the kernel follows the scale at all.
    readable = native if native in ("eager", "sdpa") else "eager"
    verdicts, telling, moved = [], True, []
    with _undisturbed(decoder):
        calls = _record_calls(decoder, stack, readable)
        for index, layer in enumerate(stack):
            attentions = attentions_of(layer)
            verdicts.append(None if attentions else _NO_ATTENTION)
            for module in attentions:
                if module not in calls:
                    verdicts[index] = f"its {class_name(module)} took no part in a trial run"
                    continue
                (before, cold), (after, hot) = (_replay(module, calls[module], tau) for tau in (1.0, 2.0))
                if not cold:
                    verdicts[index] = f"its {class_name(module)} computes no softmax that can be seen"
                elif len(cold) != len(hot) or not all(map(_is_halved, cold, hot)):
                    verdicts[index] = (
                        f"dividing the scale of its {class_name(module)} leaves something in its softmax as it "
                        "was (a fixed scale, a position bias, a sink)"
                    )
                telling &= verdicts[index] is not None or any(_spread(x) > 0 for x in cold)
                if not torch.equal(before, after):
                    moved.append((index, module))
            if verdicts[index] is None and _mixes_otherwise(layer, calls[layer], attentions):
                verdicts[index] = "its tokens meet outside softmax attention too (state space, convolution, recurrence)"
        if readable != native:
            calls = _record_calls(decoder, stack, native)
            for index, module in moved:
                before, after = (_replay(module, calls[module], tau, read=False)[0] for tau in (1.0, 2.0))
                if verdicts[index] is None and torch.equal(before, after):
                    verdicts[index] = f"with {native} attention its {class_name(module)} ignores the scale"
    return verdicts, telling


@contextmanager
def _undisturbed(decoder: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; after it training modes, random state and implementation are what they were."""
    modes = [(module, module.training) for module in decoder.modules()]
    config = cast(PreTrainedModel, decoder).config
    implementation = config._attn_implementation
    with torch.random.fork_rng(devices={p.device for p in decoder.parameters() if p.is_cuda}):
        try:
            decoder.eval()
            yield
        finally:
            config._attn_implementation = {"": implementation}
            for module, mode in modes:
                module.training = mode


def _record_calls(decoder: nn.Module, stack: nn.ModuleList, implementation: str) -> dict[nn.Module, tuple[tuple, dict]]:
    """What each layer and each attention module receives when the decoder reads seven different tokens."""
    model = cast(PreTrainedModel, decoder)
    model.config._attn_implementation = {"": implementation}  # a dictionary, to leave sub-configs alone
    calls: dict[nn.Module, tuple[tuple, dict]] = {}
    table = cast(nn.Embedding, model.get_input_embeddings()).weight
    ids = torch.arange(1, _PROBE_TOKENS + 1, device="cpu" if table.is_meta else table.device) % table.shape[0]

    def record(module: nn.Module, args: tuple, kwargs: dict) -> None:
        calls[module] = (args, kwargs)

    with ExitStack() as hooks:
        for module in {m for layer in stack for m in (layer, *attentions_of(layer))}:
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


def _sdpa_logits(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_) -> Tensor:
    """The logits that SDPA keeps to itself, without causal masking, which no temperature changes."""
    key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    logits = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is None:
        return logits
    return logits.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else logits + attn_mask


def _replay(module: nn.Module, call: tuple[tuple, dict], tau: float, read: bool = True) -> tuple[Tensor, list[Tensor]]:
    """The output of ``module`` at temperature tau and, if read, the logits of its softmaxes."""
    reader = _LogitReader()
    with heated([module], tau), reader if read else nullcontext():
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
    hidden = states_entering(args, kwargs)  # tokens on one axis, mostly the last but one
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
