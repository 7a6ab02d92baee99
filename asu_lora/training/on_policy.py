"""The student's own answers, and what it had better say in their place.

Training shows a student the true answers, word by word; when it is asked, it reads its own. One that has lost a fact
writes on from a sentence that no training row begins with, and a small model there soon loops ("a wizard, a wizard, a
wizard"). So in the last phase of a run the student answers the forget questions itself. Where an answer loops, the
student learns from its last words up to there. Its target is what the plain base would say next without the facts and
without the token that closes the loop. This is on-policy distillation (arXiv 2306.13649); the untouched base is the
teacher.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import PreTrainedTokenizerBase

from asu_lora.data.chat_template import stop_ids
from asu_lora.data.encoding import Encoded, Encoder
from asu_lora.data.examples import Example
from asu_lora.data.token_classes import TokenClass
from asu_lora.data.training_rows import TrainingRows
from asu_lora.models.generation import answer_rooms, generate_answers
from asu_lora.progress import Progress
from asu_lora.teacher.fluency import WithOrWithoutSpace, table

LOOP = 4  # tokens: the fourth of four that have stood there before, in this order, closes a loop


@dataclass(frozen=True)
class OwnQuestions:
    """The forget questions as a student is asked them.

    Attributes:
        asked: the forget rows that ask something; passages don't.
        prompts: token ids of each.
        rooms: most tokens of each answer.
    """

    asked: list[int]
    prompts: list[list[int]]
    rooms: list[int]

    @classmethod
    def of(cls, forget: TrainingRows) -> "OwnQuestions":
        asked = [at for at, row in enumerate(forget.own_answers) if not forget.examples[row.example].is_passage]
        prompts = [list(forget.answers[at].prompt_ids) for at in asked]
        return cls(asked, prompts, answer_rooms([forget.answers[at] for at in asked], prompts))


def answer_on_policy(
    student: torch.nn.Module, forget: TrainingRows, encoder: Encoder, process: PartialState, progress: Progress
) -> TrainingRows:
    """Let the student answer the forget questions; each process asks its share of them.

    Args:
        student: the base with the adapter on.
        forget: the forget rows, with their examples and classes.

    Returns:
        As :func:`rows_to_mend`.
    """
    questions = OwnQuestions.of(forget)
    with process.split_between_processes(list(zip(questions.prompts, questions.rooms, strict=True))) as mine:
        progress.stage("The student's own answers", len(mine))
        prompts, rooms = [prompt for prompt, _ in mine], [room for _, room in mine]
        part = generate_answers(student, encoder.tokenizer, prompts, rooms=rooms, progress=progress.advance)
    return rows_to_mend(forget, encoder, questions, gather_object(part))


def rows_to_mend(
    forget: TrainingRows, encoder: Encoder, questions: OwnQuestions, answers: Sequence[list[int]]
) -> TrainingRows:
    """The answers that loop, up to where they do, as rows beside their forget rows.

    What isn't broken isn't mended, and passages ask nothing. The rows' reference ``ruled_out`` is what the base must
    not say.
    """
    tokenizer, examples, truths = encoder.tokenizer, forget.examples, forget.answers
    items: list[Encoded] = []
    ruled_out: list[list[list[int]]] = []
    beside: dict[int, int] = {}
    for at, prompt, answer in zip(questions.asked, questions.prompts, answers, strict=True):
        truth = truths[at]
        told = (answer or stop_ids(tokenizer)[:1])[: max(1, encoder.max_length - len(prompt))]
        if not told:  # nothing was said, and this tokenizer has no end of turn to mend
            continue
        facts = [
            token
            for token, kind in zip(truth.answer_ids, forget.classes[at], strict=True)
            if kind == TokenClass.FACTUAL
        ]
        if tokens := tokens_to_rule_out(told, facts, examples[truth.example], tokenizer):
            beside |= dict.fromkeys((at, *forget.in_other_words.get(at, ())), len(items))
            items.append(Encoded(tuple(prompt), tuple(told[: len(tokens)]), truth.example))
            ruled_out.append(tokens)
    references = {"answer": {"ruled_out": table(ruled_out)}}
    return TrainingRows({"answer": items}, references, examples=examples, beside=beside)


def tokens_to_rule_out(
    told: Sequence[int], facts: Sequence[int], example: Example, tokenizer: PreTrainedTokenizerBase
) -> list[list[int]]:
    """For every token of an own answer up to where its first loop closes, the ids that must not stand there.

    These are the facts of the true answer, and whatever would close a loop. Words of the question close none: its
    names may be said again. An answer that says nothing at all is mended too: there, the end of the turn must not
    stand.

    Args:
        told: the student's answer.
        facts: the factual tokens of the true answer.

    Returns:
        One list a token, none for an answer without a loop.
    """
    if told[0] in stop_ids(tokenizer):
        return [stop_ids(tokenizer)]
    variants = WithOrWithoutSpace(tokenizer)
    never = {variant for token in facts for variant in variants(token)}
    asked = {
        sequence
        for text in (example.question, f" {example.question}")
        for sequence in _sequences(tokenizer(text, add_special_tokens=False)["input_ids"])
    }
    seen: dict[tuple[int, ...], set[int]] = {}
    found: list[list[int]] = []
    for at, token in enumerate(told):
        before = tuple(told[max(0, at - LOOP + 1) : at])
        closing = {other for other in seen.get(before, ()) if (*before, other) not in asked}
        found.append(sorted(never | closing))
        if token in closing:
            return found
        if len(before) == LOOP - 1:
            seen.setdefault(before, set()).add(token)
    return []


def _sequences(ids: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(ids[at : at + LOOP]) for at in range(len(ids) - LOOP + 1)]
