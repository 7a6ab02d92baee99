"""What adapters leave of the rest: the answer probability of the rows that a request keeps, over the base's.

It is measured with every audit, and after others came or went with all adapters active: so the ledger tells over time
what the sum of them keeps, which no adapter alone can tell.
"""

from collections.abc import Sequence

import torch

from asu_lora.data.examples import Example
from asu_lora.data.request import GENERAL
from asu_lora.data.sampling import sample
from asu_lora.evaluation.set_scores import example_probabilities
from asu_lora.models.adapter_stack import Stack, load
from asu_lora.models.hidden_states import answer_logprobs, hidden_states
from asu_lora.requests.runner.workshop import AuditTask

MOST_ROWS = 40


@torch.no_grad()
def kept_share(task: AuditTask) -> float | None:
    """The mean answer probability of at most 40 of the request's retain rows with its adapters, over that without.

    Returns:
        None where nobody said what is kept: the built-in questions are no measure of it.

    Raises:
        AsuLoraError: the adapters can't be loaded.
    """
    rows = sample(task.request.retain, MOST_ROWS)
    if not rows or task.request.retain_source == GENERAL:
        return None
    stack = load(task.base, task.adapters, task.store.root)
    try:
        with_them = _probability(stack, rows)
        with stack.without_adapters():
            without = _probability(stack, rows)
    finally:
        stack.unload()
    return with_them / without if without else None


def _probability(stack: Stack, rows: Sequence[Example]) -> float:
    items = stack.encoder().encode_all(rows)
    states = hidden_states(stack.model, items, stack.base.pad_id)
    values = example_probabilities(items, answer_logprobs(stack.base.head, items, states))
    return sum(values) / len(values)
