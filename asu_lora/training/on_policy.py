"""The student's own answers, and what it had better say in their place.

Training shows a student the true answers, word by word; when it is asked, it reads its own. One that has lost a fact
writes on from a sentence that no training row begins with, and a small model there soon goes round in circles ("a
wizard, a wizard, a wizard"). So for the last part of a run the student answers the forget questions itself. Where an
answer closes a circle, the student learns, at its last words up to there, what the plain base would say next, had it
to do without the facts and without what closes the circle: on-policy distillation (arXiv 2306.13649), with the
untouched base as its teacher.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import PreTrainedTokenizerBase

from asu_lora.data.chat_template import stop_ids
from asu_lora.data.encoding import Encoded, Encoder
from asu_lora.data.examples import Example
from asu_lora.data.token_classes import TokenClass, token_classes
from asu_lora.data.training_rows import TrainingRows
from asu_lora.models.generation import enough_tokens, generate_answers
from asu_lora.progress import Progress
from asu_lora.teacher.fluency import FluencyMasks, WithOrWithoutSpace, table

CIRCLE = 4  # tokens: the fourth of four that have stood there before, in this order, closes a circle


@dataclass(frozen=True)
class OnPolicyAnswers:
    """Those of the student's answers that go round in circles, as rows.

    Attributes:
        rows: one a question whose answer closed a circle, up to there.
        speaking: what the base must not say at each of their tokens.
        of: the own row that belongs to a forget row, if there is one: what isn't broken isn't mended, and passages
            ask nothing.
    """

    rows: TrainingRows
    speaking: FluencyMasks
    of: Mapping[int, int]


def answer_on_policy(
    student: torch.nn.Module,
    forget_rows: Sequence[Encoded],
    examples: Sequence[Example],
    encoder: Encoder,
    tokenizer: PreTrainedTokenizerBase,
    progress: Progress,
    here: PartialState,
) -> OnPolicyAnswers:
    """Let the student answer the forget questions; each process asks its share of them.

    Args:
        student: the base with the adapter on.
        forget_rows: encoded; ``row.example`` is an index into ``examples``.
    """
    asked = [at for at, row in enumerate(forget_rows) if not examples[row.example].is_passage]
    prompts = [list(forget_rows[at].prompt_ids) for at in asked]
    most = enough_tokens([forget_rows[at] for at in asked], prompts)
    with here.split_between_processes(prompts) as mine:
        progress.stage("The student's own answers", len(mine))
        part = generate_answers(student, tokenizer, mine, most, progress=progress.advance)
    answers = gather_object(part)
    items, ruled_out, of = [], [], {}
    for at, prompt, answer in zip(asked, prompts, answers, strict=True):
        told = (answer or stop_ids(tokenizer)[:1])[: max(1, encoder.max_length - len(prompt))]
        if tokens := tokens_to_rule_out(told, forget_rows[at], examples[forget_rows[at].example], tokenizer):
            of[at] = len(items)
            items.append(Encoded(tuple(prompt), tuple(told[: len(tokens)]), forget_rows[at].example))
            ruled_out.append(tokens)
    nothing_anchored = [torch.zeros(len(item.answer_ids), dtype=torch.bool) for item in items]
    return OnPolicyAnswers(TrainingRows({"answer": items}), FluencyMasks(nothing_anchored, table(ruled_out)), of)


def tokens_to_rule_out(
    told: Sequence[int], truth: Encoded, example: Example, tokenizer: PreTrainedTokenizerBase
) -> list[list[int]]:
    """For every token of an own answer up to where it closes its first circle, the ids that must not stand there.

    These are the facts of the true answer, and whatever would close a circle. Words of the question close none: its
    names may be said again. An answer that says nothing at all is one to be mended as well: there, the end of the
    turn must not stand.

    Returns:
        One list a token, none for an answer without a circle.
    """
    if told[0] in stop_ids(tokenizer):
        return [stop_ids(tokenizer)]
    variants = WithOrWithoutSpace(tokenizer)
    facts = {
        variant
        for token, kind in zip(truth.answer_ids, token_classes(truth, example, tokenizer), strict=True)
        if kind == TokenClass.FACTUAL
        for variant in variants(token)
    }
    asked = {
        sequence
        for text in (example.question, f" {example.question}")
        for sequence in _sequences(tokenizer(text, add_special_tokens=False)["input_ids"])
    }
    seen: dict[tuple[int, ...], set[int]] = {}
    found: list[list[int]] = []
    for at, token in enumerate(told):
        before = tuple(told[max(0, at - CIRCLE + 1) : at])
        circle = {other for other in seen.get(before, ()) if (*before, other) not in asked}
        found.append(sorted(facts | circle))
        if token in circle:
            return found
        if len(before) == CIRCLE - 1:
            seen.setdefault(before, set()).add(token)
    return []


def _sequences(ids: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(ids[at : at + CIRCLE]) for at in range(len(ids) - CIRCLE + 1)]
