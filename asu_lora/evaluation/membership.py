"""Membership: how well scores of texts tell the forget set from texts that the model never saw.

Every attack is an AUC and a share of true positives at 1 % false ones. An AUC of 0.5 can't tell the two apart.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from asu_lora.data.encoding import cut_note
from asu_lora.data.examples import Example
from asu_lora.evaluation.gradients import add_gradient_norms
from asu_lora.evaluation.intervals import with_interval
from asu_lora.evaluation.likelihoods import BLOCK, Likelihoods
from asu_lora.evaluation.metrics.auc import auc
from asu_lora.evaluation.metrics.tpr_at_fpr import tpr_at_fpr
from asu_lora.evaluation.question_sets import FORGET
from asu_lora.evaluation.record import Record
from asu_lora.evaluation.result import Evaluation
from asu_lora.evaluation.score import Score, one_value
from asu_lora.evaluation.set_means import all_values
from asu_lora.models.adapter_stack import Stack
from asu_lora.progress import Progress

HOLDOUT = "holdout"
MIN_K = "Min-40%"


@dataclass(frozen=True)
class Attack:
    """One way to tell members.

    Attributes:
        metric: its key in records.
        title: what its scores are called.
        members_lower: whether members have the lower values.
    """

    metric: str
    title: str
    members_lower: bool

    def scores(self, records: Sequence[Record]) -> list[float] | None:
        """Values that are higher for members; None where a row has none."""
        values = all_values(records, self.metric)
        if values is None:
            return None
        return [-value for value in values] if self.members_lower else values


ATTACKS = (
    Attack("min_k", MIN_K, False),
    Attack("min_k_plus_plus", f"{MIN_K}++", False),
    Attack("loss", "Loss", True),
    Attack("zlib_loss", "zlib", True),
    Attack("reference_loss", "Reference", True),
    Attack("gradient_norm", "Gradient norm", True),
)


def membership_records(
    name: str, likelihoods: Likelihoods, examples: Sequence[Example], progress: Callable[[int], None] | None = None
) -> list[Record]:
    """One record a text, with what every attack by likelihood looks at.

    Args:
        name: the set's name in the records.
        progress: called with the number of texts of each finished block.
    """
    records: list[Record] = []
    for start in range(0, len(examples), BLOCK):
        block = examples[start : start + BLOCK]
        for example, values in zip(block, likelihoods.membership(block), strict=True):
            texts = {"question": example.question, "truth": example.answer}
            records.append({"set": name, "row": example.row, **texts, **values})
        if progress:
            progress(len(block))
    return records


def attack_scores(members: Sequence[Record], others: Sequence[Record]) -> dict[str, Score]:
    """AUC and TPR at 1 % FPR of every attack whose values both sides have; Min-40 % is named where it is missing."""
    found: dict[str, Score] = {}
    for attack in ATTACKS:
        of_members, of_others = attack.scores(members), attack.scores(others)
        if of_members and of_others:
            found[f"{attack.title} AUC"] = with_interval(auc, of_members, of_others)
            found[f"{attack.title} TPR at 1% FPR"] = with_interval(tpr_at_fpr, of_members, of_others)
        elif attack.title == MIN_K:
            found[f"{attack.title} AUC"] = one_value(None, "a forget set")
    return found


def add_holdout(
    result: Evaluation,
    stack: Stack,
    holdout: Sequence[Example],
    gradients_of: Sequence[Example] | None = None,
    progress: Progress | None = None,
) -> None:
    """Add the records of held-out examples to an evaluation.

    Args:
        holdout: examples like those of the forget set that the model never saw.
        gradients_of: the forget set's examples, where gradient norms are wanted of both sets.
    """
    progress = progress or Progress()
    encoder = stack.encoder()
    if note := cut_note(encoder.encode_all(holdout), encoder.max_length, "held-out"):
        result.notes.append(note)
    likelihoods = Likelihoods(stack, encoder)
    progress.stage("Likelihoods on the held-out set", len(holdout))
    unseen = membership_records(HOLDOUT, likelihoods, holdout, progress.advance)
    if gradients_of is not None:
        progress.stage("Gradients of the forget and held-out sets", len(gradients_of) + len(holdout))
        forget = [row for row in result.records if row["set"] == FORGET]
        add_gradient_norms(forget, gradients_of, likelihoods, progress.advance)
        add_gradient_norms(unseen, holdout, likelihoods, progress.advance)
    result.records += unseen
    progress.close()


def add_attacks(result: Evaluation) -> None:
    """Add every attack on the forget set's records against the held-out ones."""
    forget, unseen = ([row for row in result.records if row["set"] == name] for name in (FORGET, HOLDOUT))
    result.more |= attack_scores(forget, unseen)
