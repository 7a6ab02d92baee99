"""Entailment: whether the answer states the truth, as a natural-language-inference model judges it."""

from collections.abc import Sequence
from typing import Protocol

import torch

from asu_lora.errors import DataError
from asu_lora.evaluation.pretrained import ScoreUnavailable, batches, load_pretrained

DEFAULT_NLI = "sileod/deberta-v3-base-tasksource-nli"
LOWEST_ROUGE = 0.1  # below it an answer shares too little with the truth to be called entailed
WAY_OUT = "give --nli a local folder or a hub id of a sequence classifier with an 'entailment' label"


class Judge(Protocol):
    """Whatever says which hypotheses are entailed: a classifier, or a language model that is asked."""

    name: str

    def entails(self, pairs: Sequence[tuple[str, str]]) -> list[bool]: ...


class EntailmentModel:
    """An NLI classifier from a hub id or a local folder.

    Raises:
        ScoreUnavailable: it can't be had, or none of its labels (``config.id2label``) is called "entailment".
    """

    def __init__(self, name: str = DEFAULT_NLI):
        from transformers import AutoModelForSequenceClassification

        self.name = name
        auto_class = AutoModelForSequenceClassification
        self.model, self.tokenizer = load_pretrained(auto_class, name, "entailment", WAY_OUT)
        labels = self.model.config.id2label
        found = [int(index) for index, label in labels.items() if label.strip().lower() == "entailment"]
        if len(found) != 1 or len(labels) < 2:
            said = ", ".join(str(label) for label in labels.values())
            raise ScoreUnavailable(f"No entailment: the labels of '{name}' are {said}; {WAY_OUT}.")
        self.entailment_id = found[0]
        positions = getattr(self.model.config, "max_position_embeddings", 512)
        self.max_tokens = int(min(self.tokenizer.model_max_length, positions, 512))

    @torch.inference_mode()
    def entails(self, pairs: Sequence[tuple[str, str]], batch_size: int = 32) -> list[bool]:
        """For each (premise, hypothesis): whether entailment is the most likely label."""
        results = [False] * len(pairs)
        for batch in batches([len(premise) + len(hypothesis) for premise, hypothesis in pairs], batch_size):
            tokens = self.tokenizer(
                [pairs[i][0] for i in batch],
                [pairs[i][1] for i in batch],
                padding=True,
                truncation=True,
                max_length=self.max_tokens,
                return_tensors="pt",
            )
            labels = self.model(**tokens).logits.argmax(-1).tolist()
            for index, label in zip(batch, labels, strict=True):
                results[index] = label == self.entailment_id
        return results


def entailment(
    nli: Judge, answers: Sequence[str], truths: Sequence[str], rouge: Sequence[float], forget: bool
) -> list[bool]:
    """Which answers are entailed; the set's score is their share, in [0, 1].

    On the forget set (``forget=True``): premise = model's answer, hypothesis = truth, so that saying the
    truth and more still counts. Elsewhere: premise = truth, hypothesis = answer. An answer whose ROUGE-L
    recall (``rouge``, one a question) is below LOWEST_ROUGE counts as not entailed and isn't shown to the
    model. ``truths``: the full sentence where a set has one (TOFU's ``original_answer``). "Entailment
    Score" of "A Closer Look at Machine Unlearning for LLMs" (ICLR 2025). :class:`DataError` where the
    lists differ in length.
    """
    if not len(answers) == len(truths) == len(rouge):
        counts = f"{len(answers)} answers, {len(truths)} truths and {len(rouge)} ROUGE values"
        raise DataError(f"Entailment needs one of each a question, not {counts}.")
    asked = [i for i, value in enumerate(rouge) if value >= LOWEST_ROUGE]
    pairs = [(answers[i], truths[i]) if forget else (truths[i], answers[i]) for i in asked]
    judged = dict(zip(asked, nli.entails(pairs), strict=True))
    return [judged.get(i, False) for i in range(len(answers))]
