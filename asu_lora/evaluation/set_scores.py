"""The scores of a forget run, before and after: what the model gives away, what it still knows, how it speaks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
from asu_lora.models.generation import enough_tokens, generate_answers
from asu_lora.models.hidden_states import answer_logprobs, hidden_states
from asu_lora.models.loading import LoadedBase
from asu_lora.models.output_head import FrozenHead
from asu_lora.progress import Progress


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
    answers: list[str]
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
    progress = progress or Progress()
    base = base_model(model)
    items = encoder.encode_all(examples)
    states = hidden_states(base, items, tokenizer.pad_token_id)
    probability = example_probabilities(items, answer_logprobs(head, items, states))
    asked = [example for example in examples if not example.is_passage]
    prompts = [encoder.prompt_ids(example.prompt) for example in asked]
    endings, (most, least) = Endings(), enough_tokens(items, prompts)
    answers = [
        str(tokenizer.decode(ids, skip_special_tokens=True)).strip()
        for ids in generate_answers(
            model, tokenizer, prompts, most, least=least, progress=progress.advance, endings=endings
        )
    ]
    rouge = [rouge_l_recall(answer, example.answer) for answer, example in zip(answers, asked, strict=True)]
    return SetScores(probability, rouge, answers, endings)


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
    """Scores of every set that has questions; each process measures its share of them.

    Args:
        when: what the progress says, "before" or "after".
    """
    found = {}
    for name, examples in sets.items():
        if examples:
            with process.split_between_processes(examples) as mine:
                progress.stage(f"Answers on the {name} set, {when}", sum(not e.is_passage for e in mine))
                part = score_set(model, base.head, base.tokenizer, encoder, mine, progress)
            parts = gather_object([part])
            found[name] = joined(parts)
    return found


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
