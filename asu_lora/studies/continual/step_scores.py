"""The scores after a step: utility, this request, everything forgotten so far, and the first request again."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from asu_lora.data.examples import Example
from asu_lora.data.reference_answers import ORIGINAL, PARAPHRASED, PERTURBED
from asu_lora.data.sampling import sample
from asu_lora.evaluation.evaluate import evaluate
from asu_lora.evaluation.metrics.average import average
from asu_lora.evaluation.metrics.cosine_similarity import SentenceEncoder
from asu_lora.evaluation.metrics.entailment import Judge
from asu_lora.evaluation.metrics.forget_efficacy import forget_efficacy
from asu_lora.evaluation.question_sets import FORGET, RETAIN, QuestionSet
from asu_lora.evaluation.result import Evaluation
from asu_lora.evaluation.set_means import means
from asu_lora.models.adapter_stack import Stack
from asu_lora.models.stack_rows import RowSettings
from asu_lora.progress import Progress
from asu_lora.studies.continual.steps import Step

SCORED = (PARAPHRASED, PERTURBED, ORIGINAL)  # columns that scores read


@dataclass(frozen=True)
class Questions:
    """What every step is measured on.

    Attributes:
        general: sets that no step touches: retain questions, and others such as real authors and world facts.
        most: most questions of a request. Of all requests so far, five times as many, so that measuring a step
            costs the same however many came before it.
        encoder, nli: see :func:`asu_lora.evaluation.evaluate.evaluate`.
        notes: said beside the scores.
        rows: how they are written, before the first adapter as after it; None: as each stack's adapters tell.
    """

    general: tuple[QuestionSet, ...]
    most: int = 40
    encoder: SentenceEncoder | None = None
    nli: Judge | None = None
    notes: tuple[str, ...] = ()
    rows: RowSettings | None = None

    def identity(self) -> list:
        """What must be the same for scores to stand in one table."""
        models = [each and each.name for each in (self.encoder, self.nli)]
        return [self.most, [questions.name for questions in self.general], *models]

    def fingerprint(self, kept: Sequence[Example]) -> str:
        """SHA-256 over what MU's questions are drawn from, with the columns that scores read.

        Args:
            kept: retain rows of the first step. Those of ``general`` are fewer with every request that is added.
        """
        others = (each for each in self.general if each.name != RETAIN)
        sets: list[tuple[str, Sequence[Example]]] = [(RETAIN, kept), *((each.name, each.examples) for each in others)]
        rows = [
            [name, [[e.prompt, e.answer, *(e.extra.get(column) for column in SCORED)] for e in examples]]
            for name, examples in sets
        ]
        return hashlib.sha256(json.dumps(rows, default=str).encode()).hexdigest()


def retain_questions(steps: Sequence[Step], most: int) -> QuestionSet:
    """Retain questions that no step names, the same for all of them."""
    return QuestionSet(RETAIN, tuple(sample([e for e in steps[-1].request.retain if not e.is_passage], most)))


@dataclass(frozen=True)
class StepScores:
    """Scores after a step, percent; None where something needed is missing.

    Attributes:
        utility: MU on the sets that no step touches.
        efficacy: FE of this step's request.
        efficacy_so_far: FE over everything forgotten up to here, spread evenly.
        efficacy_first: FE of the first request, asked again.
        average: of MU and this request's FE.
        gibberish, gibberish_retain: share of gibberish among the answers to forgotten and to retained questions.
        labels: how much of themselves MU and FE hold, such as ``"MU (5 of 6 metrics)"``.
    """

    utility: float | None
    efficacy: float | None
    efficacy_so_far: float | None
    efficacy_first: float | None
    average: float | None
    gibberish: float | None
    gibberish_retain: float | None
    labels: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"labels": list(self.labels)}


def score_step(
    stack: Stack, steps: Sequence[Step], number: int, questions: Questions, progress: Progress
) -> tuple[StepScores, Evaluation]:
    """Ask everything once after step ``number``; 0 is before the first, scored on the first request.

    Every earlier row is asked once: the scores of a request and of all so far are means over the same records.
    """
    done = [step for step in steps if step.number <= max(number, 1)]
    first, this = (sample(_asking(step), questions.most) for step in (done[0], done[-1]))
    so_far = sample([example for step in done for example in _asking(step)], 5 * questions.most)
    found, (of_first, of_this, of_all) = _ask(stack, (first, this, so_far), questions, progress)
    utility, own = found.model_utility, forget_efficacy(means(of_this, FORGET))
    return StepScores(
        _percent(utility.value),
        _percent(own.value),
        _percent(forget_efficacy(means(of_all, FORGET)).value),
        _percent(forget_efficacy(means(of_first, FORGET)).value),
        _percent(average(utility, own).value),
        _gibberish(of_all),
        _gibberish([record for record in found.records if record["set"] == RETAIN]),
        (utility.label("MU"), own.label("FE")),
    ), found


def efficacies(
    stack: Stack, steps: Sequence[Step], questions: Questions, progress: Progress
) -> tuple[float | None, dict[int, float | None]]:
    """MU, and FE of every step's own request by step number, percent."""
    found, records = _ask(stack, [sample(_asking(step), questions.most) for step in steps], questions, progress)
    return _percent(found.model_utility.value), {
        step.number: _percent(forget_efficacy(means(part, FORGET)).value)
        for step, part in zip(steps, records, strict=True)
    }


def _ask(
    stack: Stack, parts: Sequence[Sequence[Example]], questions: Questions, progress: Progress
) -> tuple[Evaluation, list[list[dict]]]:
    """Ask every row of the parts once, and the general sets; the records of each part.

    Rows are told apart as rows: two requests may ask one question and answer it differently, and each is scored
    against its own answer, paraphrase and perturbed answers.
    """
    examples = {id(example): example for part in parts for example in part}
    found = evaluate(
        stack,
        [QuestionSet(FORGET, tuple(examples.values())), *questions.general],
        questions.encoder,
        questions.nli,
        [*stack.notes, *questions.notes],
        progress,
    )
    records = dict(zip(examples, (record for record in found.records if record["set"] == FORGET), strict=True))
    return found, [[records[id(example)] for example in part] for part in parts]


def _asking(step: Step) -> list[Example]:
    return [example for example in step.request.forget if not example.is_passage]


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 2)


def _gibberish(records: Sequence[dict]) -> float | None:
    return round(100 * fmean(record["gibberish"] for record in records), 2) if records else None
