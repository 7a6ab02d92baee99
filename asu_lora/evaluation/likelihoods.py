"""What a model makes of given texts, token by token: the ground of every score by likelihood.

A long passage is scored in windows, which count as one text. The end of turn is a token of the answer for
probability and truth ratio; exact memorization, extraction strength and Min-K look at the answer's words alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from asu_lora.data.encoding import Encoded, Encoder
from asu_lora.data.examples import Example
from asu_lora.data.reference_answers import PARAPHRASED, PERTURBED, reference_answers
from asu_lora.evaluation.metrics.exact_memorization import exact_memorization
from asu_lora.evaluation.metrics.extraction_strength import extraction_strength
from asu_lora.evaluation.metrics.min_k import min_k
from asu_lora.evaluation.metrics.min_k_plus_plus import min_k_plus_plus, standardized
from asu_lora.evaluation.metrics.probability import answer_probability, mean_nll, normalized_probability
from asu_lora.evaluation.metrics.truth_ratio import truth_ratio
from asu_lora.evaluation.metrics.truth_share import truth_share
from asu_lora.evaluation.metrics.zlib_loss import zlib_loss
from asu_lora.models.adapter_stack import Stack
from asu_lora.models.decoder import base_model
from asu_lora.models.hidden_states import answer_logprobs, hidden_states
from asu_lora.models.output_head import FrozenHead, label_logprob

Values = dict[str, float | None]
BLOCK = 32  # examples whose hidden states are held at once


@dataclass(frozen=True)
class TokenScores:
    """One text's tokens under a model, each after the true ones before it.

    Attributes:
        labels: ids of the text's ``T`` tokens.
        logprobs: log-probability of each token, nats, shape ``(T,)``.
        predicted: ids of the most likely tokens, ``(T,)``.
        standardized: log-probabilities on the scale of Min-K%++, ``(T,)``.
        end: how many tokens at the end are the end of turn.
    """

    labels: torch.Tensor
    logprobs: torch.Tensor
    predicted: torch.Tensor
    standardized: torch.Tensor
    end: int = 0

    @property
    def words(self) -> slice:
        """The tokens before the end of turn."""
        return slice(0, len(self.labels) - self.end)

    def memorization(self) -> Values:
        """Exact memorization and extraction strength of the words."""
        predicted, labels = self.predicted[self.words], self.labels[self.words]
        return {
            "exact_memorization": exact_memorization(predicted, labels),
            "extraction_strength": extraction_strength(predicted, labels),
        }

    def membership(self, text: str) -> Values:
        """What membership is told by: loss and zlib with the end of turn, Min-K without, as open-unlearning does."""
        return {
            "loss": mean_nll(-self.logprobs),
            "zlib_loss": zlib_loss(-self.logprobs, text),
            "min_k": min_k(self.logprobs[self.words]),
            "min_k_plus_plus": min_k_plus_plus(self.standardized[self.words]),
        }


class Likelihoods:
    """Scores texts under one stack.

    Args:
        stack: base and adapters, as they should be scored.
        encoder: writes examples as rows.
    """

    def __init__(self, stack: Stack, encoder: Encoder):
        stack.check()
        self.model = base_model(stack.model)
        self.head, self.encoder = FrozenHead(self.model), encoder

    def tokens(self, items: Sequence[Encoded]) -> list[TokenScores]:
        """Every text's tokens; items of one ``example`` in a row are windows of one text."""
        windows: dict[int, list[TokenScores]] = {}
        for item, hidden in zip(items, self._states(items), strict=True):
            windows.setdefault(item.example, []).append(self._token_scores(item, hidden))
        return [_joined(parts) for parts in windows.values()]

    def membership(self, examples: Sequence[Example]) -> list[Values]:
        """The membership scores of each example: of the answer, or of all of a passage."""
        items = self.encoder.encode_all(examples)
        return [scores.membership(example.answer) for example, scores in zip(examples, self.tokens(items), strict=True)]

    def values(self, examples: Sequence[Example], multiple_choice: bool = False) -> list[Values]:
        """Every score by likelihood of each example.

        Args:
            multiple_choice: whether probability is that of the answer among the wrong ones.
        """
        items = self.encoder.encode_all(examples)
        found = []
        for example, scores in zip(examples, self.tokens(items), strict=True):
            own = answer_probability(-scores.logprobs)
            found.append(
                {"answer_probability": own, "probability": own, **scores.memorization()}
                | scores.membership(example.answer)
            )
        asked = [index for index, example in enumerate(examples) if not example.is_passage]
        compared = self._compared([examples[index] for index in asked], [found[index] for index in asked])
        for index, values in zip(asked, compared, strict=True):
            chosen = values.pop("among_wrong")
            found[index] |= values | ({"probability": chosen} if multiple_choice else {})
        return found

    def _compared(self, examples: Sequence[Example], own: Sequence[Values]) -> list[Values]:
        """Truth ratio, and the answer's probability among the wrong ones; None without wrong answers."""
        texts = [
            (reference_answers(example, PARAPHRASED), reference_answers(example, PERTURBED)) for example in examples
        ]
        losses = iter(self._losses([other for example in examples for other in other_answers(example)]))
        found: list[Values] = []
        for (paraphrased, wrong), values in zip(texts, own, strict=True):
            if not wrong:
                found.append({"truth_ratio": None, "truth_share": None, "among_wrong": None})
                continue
            answer = values["loss"]
            assert answer is not None  # membership gives every row its loss
            true = [mean_nll(next(losses)) for _ in paraphrased] or [answer]
            false = [next(losses) for _ in wrong]
            ratio = truth_ratio(true, false)
            found.append(
                {
                    "truth_ratio": ratio,
                    "truth_share": truth_share(ratio),
                    "among_wrong": normalized_probability([answer], false),
                }
            )
        return found

    def _losses(self, examples: Sequence[Example]) -> list[torch.Tensor]:
        items = self.encoder.encode_all(examples)
        return [-logprobs for logprobs in answer_logprobs(self.head, items, self._states(items))]

    def _states(self, items: Sequence[Encoded]) -> list[torch.Tensor]:
        return hidden_states(self.model, items, self.encoder.tokenizer.pad_token_id)

    @torch.no_grad()
    def _token_scores(self, item: Encoded, hidden: torch.Tensor) -> TokenScores:
        labels, step = torch.tensor(item.answer_ids, device=hidden.device), self.head.chunk()
        parts = []
        for states, targets in zip(hidden.split(step), labels.split(step), strict=True):
            logits = self.head.logits(states)
            logprobs = label_logprob(logits, targets)
            parts.append((logprobs, logits.argmax(1), standardized(logits, logprobs)))
        logprobs, predicted, scaled = (torch.cat(column) for column in zip(*parts, strict=True))
        return TokenScores(labels, logprobs, predicted, scaled, item.end)


def other_answers(example: Example) -> list[Example]:
    """The row with each of its paraphrased and wrong answers, which truth ratio compares; none without wrong ones."""
    wrong = reference_answers(example, PERTURBED)
    texts = (*reference_answers(example, PARAPHRASED), *wrong) if wrong else ()
    return [replace(example, answer=text) for text in texts]


def _joined(parts: Sequence[TokenScores]) -> TokenScores:
    return TokenScores(
        torch.cat([part.labels for part in parts]),
        torch.cat([part.logprobs for part in parts]),
        torch.cat([part.predicted for part in parts]),
        torch.cat([part.standardized for part in parts]),
        parts[-1].end,
    )
