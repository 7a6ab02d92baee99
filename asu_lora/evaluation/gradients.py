"""Norms of the gradient that a text would give the model's weights; the weights stay as they are.

A gradient is measured and freed as soon as backward has made it, so one weight's gradient is held at a time. The
adapters' own matrices have none of the norms: with them in place, the gradient by a base weight is the gradient by
the merged one. A 4-bit weight takes no gradient: its norm follows from the layer's inputs and the gradient of its
outputs, ``|G^T X|^2 = sum((X X^T) * (G G^T))``.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from asu_lora.data.encoding import Encoded
from asu_lora.data.examples import Example
from asu_lora.evaluation.likelihoods import Likelihoods
from asu_lora.evaluation.metrics.gradient_norm import gradient_norm
from asu_lora.evaluation.record import Record
from asu_lora.models.output_head import label_logprob

FOUR_BIT = "Linear4bit"  # the class of bitsandbytes, which isn't imported for it


def add_gradient_norms(
    records: Sequence[Record],
    examples: Sequence[Example],
    likelihoods: Likelihoods,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Add ``gradient_norm`` to the records of these examples: a forward and a backward pass each."""
    for record, example in zip(records, examples, strict=True):
        record["gradient_norm"] = gradient_norm(weight_norms(likelihoods.model, likelihoods.encoder.encode(example)))
        if progress:
            progress(1)


def weight_norms(model: torch.nn.Module, windows: Sequence[Encoded]) -> list[float]:
    """The 2-norm of every weight's gradient, of one text's mean token loss without its end of turn.

    Args:
        windows: the text's rows; several for a long passage.
    """
    count = sum(len(item.answer_ids) - item.end for item in windows)
    with measured_gradients(model) as norms, torch.enable_grad():
        device = next(model.parameters()).device
        loss = torch.zeros((), device=device)
        for item in windows:
            ids = torch.tensor([[*item.prompt_ids, *item.answer_ids]], device=device)
            start, words = len(item.prompt_ids), len(item.answer_ids) - item.end
            logits = model(input_ids=ids, use_cache=False).logits[0, start - 1 : start - 1 + words].float()
            loss = loss - label_logprob(logits, ids[0, start : start + words]).sum() / count
        loss.backward()
    return norms


@contextmanager
def measured_gradients(model: torch.nn.Module) -> Iterator[list[float]]:
    """Inside, backward passes add the norm of each base weight's gradient to the list, and keep no gradient."""
    norms: list[float] = []
    weights = [weight for weight in base_weights(model) if weight.is_floating_point()]
    frozen = [weight for weight in weights if not weight.requires_grad]
    with ExitStack() as undo:
        for weight in weights:
            weight.requires_grad_(True)
            undo.callback(weight.register_post_accumulate_grad_hook(partial(_take, norms)).remove)
        for module in model.modules():
            if type(module).__name__ == FOUR_BIT:
                undo.callback(module.register_forward_hook(partial(_watch, norms)).remove)
        try:
            yield norms
        finally:
            for weight in frozen:
                weight.requires_grad_(False)
                weight.grad = None


def base_weights(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Every weight but those of adapters, a tied one once."""
    adapters = {
        id(weight)
        for module in model.modules()
        if isinstance(module, BaseTunerLayer)
        for name, weight in module.named_parameters()
        if not name.startswith("base_layer.")
    }
    return [weight for weight in model.parameters() if id(weight) not in adapters]


def _take(norms: list[float], weight: torch.Tensor) -> None:
    if weight.grad is not None:
        norms.append(float(weight.grad.float().norm()))
        weight.grad = None


def _watch(norms: list[float], module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    """Have the norm of a 4-bit weight's gradient measured when the output's gradient is there."""
    states = inputs[0].detach().flatten(0, -2).float()

    def measure(gradient: torch.Tensor) -> None:
        slopes = gradient.flatten(0, -2).float()
        square = ((states @ states.T) * (slopes @ slopes.T)).sum()
        norms.append(float(square.clamp(min=0).sqrt()))

    if output.requires_grad:
        output.register_hook(measure)
