"""The scores of a forget run, before and after: what the model gives away, what it still knows, how it speaks."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import PreTrainedTokenizerBase

from asu_lora.data.encoding import Encoded, Encoder
from asu_lora.data.examples import Example
from asu_lora.evaluation.metrics.gibberish import gibberish_rate, repetition
from asu_lora.evaluation.metrics.probability import answer_probability
from asu_lora.evaluation.metrics.rouge import rouge_l_recall
from asu_lora.models.answer_ends import Endings
from asu_lora.models.decoder import base_model
from asu_lora.models.generation import answer_rooms, generate_answers
from asu_lora.models.hidden_states import answer_logprobs, hidden_states
from asu_lora.models.loading import LoadedBase
from asu_lora.models.output_head import FrozenHead
from asu_lora.progress import Progress

K = TypeVar("K", bound=Hashable)


@dataclass
class SetScores:
    """What was measured on one set of questions; one entry a row in each list.

    Attributes:
        probability: exp(-mean NLL of the answer tokens), in [0, 1].
        rouge: ROUGE-L recall of the greedy answer against the truth; empty for passages, which ask nothing.
        answers: the greedy answers themselves. They stay in memory: they are personal data.
        endings: how these came to an end.
    """

    probability: list[float]
    rouge: list[float]
    answers: list[str] = field(repr=False)
    endings: Endings = field(default_factory=Endings)

    def summary(self, prefix: str) -> dict[str, float]:
        """Means, as they stand in a manifest."""
        found = {f"{prefix}_probability": _mean(self.probability)}
        if self.answers:
            found |= {
                f"{prefix}_rouge": _mean(self.rouge),
                f"{prefix}_gibberish_rate": gibberish_rate(self.answers),
                f"{prefix}_empty_answers": sum(not answer.strip() for answer in self.answers),
                f"{prefix}_repetition": _mean([repetition(answer) for answer in self.answers]),
            }
        return {name: round(value, 4) for name, value in found.items()}


def score_set(
    model: torch.nn.Module,
    head: FrozenHead,
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    examples: Sequence[Example],
    progress: Progress | None = None,
) -> SetScores:
    """Answer probability and greedy answers of a set.

    Args:
        model: a causal LM, or a PEFT model with whatever adapters are active.
    """
    return scores_together(model, head, tokenizer, {"": Asked(encoder, examples)}, progress)[""]


def score_sets(
    model: torch.nn.Module,
    base: LoadedBase,
    encoder: Encoder,
    sets: Mapping[str, Sequence[Example]],
    when: str,
    *,
    progress: Progress,
    process: PartialState,
) -> dict[str, SetScores]:
    """Scores of every set that has questions; each process measures its share of each set.

    Args:
        when: what the progress says, "before" or "after".
    """
    mine = {}
    for name, examples in sets.items():
        if examples:
            with process.split_between_processes(list(examples)) as share:
                mine[name] = share
    if not mine:
        return {}
    progress.stage(f"Answers, {when}", sum(not example.is_passage for share in mine.values() for example in share))
    asked = {name: Asked(encoder, share) for name, share in mine.items()}
    parts = gather_object([scores_together(model, base.head, base.tokenizer, asked, progress)])
    return {name: joined([part[name] for part in parts]) for name in mine}


@dataclass(frozen=True)
class Asked:
    """One set of questions.

    Attributes:
        encoder: writes its rows.
        examples: the set.
        adapter: which of several adapters answers, where there are such (:mod:`asu_lora.training.per_row`).
    """

    encoder: Encoder
    examples: Sequence[Example]
    adapter: int | None = None


def scores_together(
    model: torch.nn.Module,
    head: FrozenHead,
    tokenizer: PreTrainedTokenizerBase,
    sets: Mapping[K, Asked],
    progress: Progress | None = None,
    *,
    acting: Callable[[Any], AbstractContextManager[Any]] = nullcontext,
) -> dict[K, SetScores]:
    """Scores of several sets, whose questions are answered together: those of like length, wherever they belong.

    Args:
        sets: by whatever names them. Sets that are equal are measured once.
        acting: gives what must be on, by the number of an adapter or by those of the rows.
    """
    base, progress = base_model(model), progress or Progress()
    probabilities: dict[K, list[float]] = {}
    prompts: list[list[int]] = []
    rooms, by, found = list[int](), list[int | None](), dict[K, SetScores]()
    first = {name: next(other for other, theirs in sets.items() if theirs == each) for name, each in sets.items()}
    own = {name: [e for e in sets[name].examples if not e.is_passage] for name in dict.fromkeys(first.values())}
    for name, questions in own.items():
        items = sets[name].encoder.encode_all(sets[name].examples, f"{name} row" if isinstance(name, str) else "row")
        with acting(sets[name].adapter):
            states = hidden_states(base, items, tokenizer.pad_token_id)
        probabilities[name] = example_probabilities(items, answer_logprobs(head, items, states))
        mine = [sets[name].encoder.prompt_ids(example.prompt) for example in questions]
        prompts += mine
        rooms += answer_rooms(items, mine)
        by += [sets[name].adapter] * len(mine)
    how = [Endings() for _ in prompts]
    told = generate_answers(
        model,
        tokenizer,
        prompts,
        rooms=rooms,
        progress=progress.advance,
        endings=how,
        acting=lambda rows: acting(None if by[rows[0]] is None else [by[row] for row in rows]),
    )
    answers = iter(zip(told, how, strict=True))
    for name, questions in own.items():
        ended = [next(answers) for _ in questions]
        texts = [str(tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids, _ in ended]
        rouge = [rouge_l_recall(text, example.answer) for text, example in zip(texts, questions, strict=True)]
        found[name] = SetScores(probabilities[name], rouge, texts, sum((ending for _, ending in ended), Endings()))
    return {name: found[same] for name, same in first.items()}


def joined(parts: Sequence[SetScores]) -> SetScores:
    """The scores of a set whose rows several processes measured."""
    return SetScores(
        [value for part in parts for value in part.probability],
        [value for part in parts for value in part.rouge],
        [answer for part in parts for answer in part.answers],
        sum((part.endings for part in parts), Endings()),
    )


def example_probabilities(items: Sequence[Encoded], logprobs: Sequence[torch.Tensor]) -> list[float]:
    """exp(-mean NLL) of each example; the windows of a long passage count as one."""
    nll: dict[int, list[float]] = {}
    for item, values in zip(items, logprobs, strict=True):
        nll.setdefault(item.example, []).extend((-values).tolist())
    return [answer_probability(values) for values in nll.values()]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
