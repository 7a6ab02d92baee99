"""Membership scores of texts, and how well they tell the forget set from texts that the model never saw."""

from collections.abc import Callable, Sequence

import torch

from asu_lora.data.encoding import Encoder, cut_note
from asu_lora.data.examples import Example
from asu_lora.evaluation.metrics.auc import auc
from asu_lora.evaluation.metrics.min_k import min_k
from asu_lora.evaluation.question_sets import FORGET, QuestionSet
from asu_lora.evaluation.result import Evaluation
from asu_lora.evaluation.score import Score
from asu_lora.models.adapter_stack import Stack
from asu_lora.models.decoder import base_model
from asu_lora.models.hidden_states import answer_logprobs, hidden_states
from asu_lora.models.output_head import FrozenHead
from asu_lora.progress import Progress

HOLDOUT, AUC = "holdout", "Min-40% AUC"
BLOCK = 32  # examples whose hidden states are held at once


def min_k_scores(
    model: torch.nn.Module,
    head: FrozenHead,
    encoder: Encoder,
    examples: Sequence[Example],
    progress: Callable[[int], None] | None = None,
) -> list[float]:
    """Min-40% log-probability of each example, nats a token: of the answer, or of all of a passage.

    Args:
        model: the causal LM itself, with whatever adapters are active.
        progress: called with the number of examples of each finished block.
    """
    scores = []
    for start in range(0, len(examples), BLOCK):
        block = examples[start : start + BLOCK]
        items = encoder.encode_all(block)
        states = hidden_states(model, items, encoder.tokenizer.pad_token_id)
        found: list[list[torch.Tensor]] = [[] for _ in block]
        for item, values in zip(items, answer_logprobs(head, items, states), strict=True):
            found[item.example].append(values)  # the windows of a long passage count as one
        scores += [min_k(torch.cat(parts)) for parts in found]
        if progress:
            progress(len(block))
    return scores


def add_membership(
    result: Evaluation,
    stack: Stack,
    sets: Sequence[QuestionSet],
    holdout: Sequence[Example],
    progress: Progress | None = None,
) -> None:
    """Add the AUC of the forget set against held-out examples to an evaluation, and their records.

    Args:
        result: what :func:`asu_lora.evaluation.evaluate.evaluate` gave for ``sets``.
        holdout: examples like those of the forget set that the model never saw.
    """
    progress = progress or Progress()
    model = base_model(stack.model)
    head, encoder = FrozenHead(model), stack.encoder()
    forget = [example for questions in sets if questions.name == FORGET for example in questions.examples]
    passages = [example for example in forget if example.is_passage]  # the evaluation asks questions alone
    if note := cut_note(encoder.encode_all(holdout), encoder.max_length, "held-out"):
        result.notes.append(note)
    progress.stage("Likelihoods on the held-out set", len(passages) + len(holdout))
    member = [record["min_k"] for record in result.records if record["set"] == FORGET]
    member += min_k_scores(model, head, encoder, passages, progress.advance)
    other = min_k_scores(model, head, encoder, holdout, progress.advance)
    result.records += [
        {"set": HOLDOUT, "row": example.row, "question": example.question, "truth": example.answer, "min_k": value}
        for example, value in zip(holdout, other, strict=True)
    ]
    there = bool(member and other)
    result.more[AUC] = Score(
        auc(member, other) if there else None, int(there), 1, () if there else ("a forget set",), "values"
    )
    progress.close()
