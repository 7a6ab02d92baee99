"""What a forget run left behind."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from asu_lora.evaluation.set_scores import SetScores
from asu_lora.forgetting.run_record import RunRecord

TELLS = 0.2  # ROUGE-L recall of the base, below which it hardly knows the answers
STILL = 0.9  # of it, at which an adapter has changed nothing that is said


@dataclass
class ForgetResult:
    """What a run left behind.

    Attributes:
        name, path: the adapter in the store.
        before, after: scores (see :meth:`asu_lora.evaluation.set_scores.SetScores.summary`).
        sets: the answers behind the scores, ``{"forget": (before, after), ...}``; in memory only.
        record: everything the manifest was written from.
        main_process: whether this is the process that tells a person, of those of an ``accelerate launch``.
    """

    name: str
    path: Path
    before: dict[str, float]
    after: dict[str, float]
    sets: dict[str, tuple[SetScores, SetScores]] = field(repr=False)  # the request's text: not what a notebook shows
    record: RunRecord = field(repr=False)
    main_process: bool = True


def still_told(before: Mapping[str, float], after: Mapping[str, float]) -> str | None:
    """A sentence where the base told something of the answers and the adapter tells as much; else None.

    The probability of the exact words falls long before their facts are gone, where a base says them in its own words.
    """
    was, now = before.get("forget_rouge"), after.get("forget_rouge")
    if was is None or now is None or was < TELLS or now < STILL * was:
        return None
    return (
        f"Asked, the model still says as much of the answers as before (ROUGE-L {now:.2f}, before {was:.2f}): give "
        "more rows and other wordings of the facts, or --robust standard, and see what 'asu-lora audit' finds."
    )
