"""What a smoothed teacher says when it is left to speak."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch

from asu_lora.data.encoding import Encoder
from asu_lora.data.examples import Example
from asu_lora.evaluation.metrics.gibberish import gibberish_rate
from asu_lora.evaluation.metrics.rouge import rouge_l_recall
from asu_lora.models.generation import TOTAL_TOKENS, enough_tokens, generate_answers
from asu_lora.teacher.smoothing import attention_smoothing


@dataclass(frozen=True)
class TeacherAnswers:
    """Greedy answers, summed up: shares of them in [0, 1].

    Attributes:
        rouge: mean ROUGE-L recall against the truth.
        gibberish_rate: empty answers, loops, noise (:mod:`asu_lora.evaluation.metrics.gibberish`).
        empty_rate: those of them that say nothing at all.
    """

    rouge: float
    gibberish_rate: float
    empty_rate: float


def teacher_answers(
    model: torch.nn.Module, encoder: Encoder, examples: Sequence[Example], tau: float, layers: Sequence[int]
) -> TeacherAnswers:
    """Let the smoothed model answer questions greedily, for little longer than the longest true answer takes.

    Args:
        examples: questions and answers (no passages), at least one.
    """
    prompts = [encoder.prompt_ids(example.prompt) for example in examples]
    items = encoder.encode_all(examples)
    room, (_, least) = min(TOTAL_TOKENS, 8 + max(map(len, items))), enough_tokens(items, prompts)
    with attention_smoothing(model, tau, layers):
        ids = generate_answers(model, encoder.tokenizer, prompts, room, least=least)
    answers = [str(encoder.tokenizer.decode(tokens, skip_special_tokens=True)).strip() for tokens in ids]
    return TeacherAnswers(
        fmean(rouge_l_recall(answer, example.answer) for answer, example in zip(answers, examples, strict=True)),
        gibberish_rate(answers),
        fmean(not answer for answer in answers),
    )
