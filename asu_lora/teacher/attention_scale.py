"""Where the attention of a transformers decoder keeps the scale of its logits, and how it is divided."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeGuard

from torch import Tensor, nn

# What attention modules of transformers call the numbers their logits are proportional to.
FACTORS = (
    "scaling",  # nearly all; OPT and XGLM multiply the queries by it
    "scale",
    "softmax_scale",
    "inv_norm_factor",  # Bloom, Falcon with ALiBi
    "beta",  # Bloom: the weight of ALiBi
    "attn_logit_softcapping",  # Gemma 2: cap/tau tanh(s/tau qk / (cap/tau)) = cap tanh(s qk / cap) / tau
)
DIVISORS = ("scale_attn",)  # GPT-J, CodeGen: the logits are divided by it
SINKS = ("sinks",)  # gpt-oss: logits of their own, one a head, beside those of the keys


def _is_number(value: object) -> TypeGuard[int | float | Tensor]:
    return isinstance(value, (int, float, Tensor)) and not isinstance(value, bool)


def attentions_of(layer: nn.Module) -> list[nn.Module]:
    """The attention modules of one layer that hold a scale (a subclass goes by its parent's name too)."""
    return [
        module
        for module in layer.modules()
        if any(_is_number(vars(module).get(name)) for name in FACTORS + DIVISORS)
        and any("Attention" in kind.__name__ for kind in type(module).__mro__)
    ]


@contextmanager
def heated(modules: Iterable[nn.Module], tau: float) -> Iterator[None]:
    """Divide the logits of ``modules`` by tau.

    It writes to the dictionaries beneath the attributes: a divided sink is no nn.Parameter, which setattr
    would refuse, and what comes back has to be the original object.
    """
    undo: list[tuple[dict, str, object]] = []
    try:
        for module in dict.fromkeys(modules):  # a module that two layers share is heated once
            for name in FACTORS + DIVISORS:
                if _is_number(value := vars(module).get(name)):
                    undo.append((vars(module), name, value))
                    vars(module)[name] = value * tau if name in DIVISORS else value / tau
            for name in SINKS:
                if (sink := module._parameters.get(name)) is not None:
                    undo.append((module._parameters, name, sink))
                    # a plain tensor in a parameter's place, for the time being
                    module._parameters[name] = sink / tau  # type: ignore[assignment]  # torch allows what it doesn't say
        yield
    finally:
        for holder, name, value in undo:
            holder[name] = value
