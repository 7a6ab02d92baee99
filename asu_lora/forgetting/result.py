"""What a forget run left behind."""

from dataclasses import dataclass
from pathlib import Path

from asu_lora.evaluation.set_scores import SetScores
from asu_lora.forgetting.run_record import RunRecord


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
    sets: dict[str, tuple[SetScores, SetScores]]
    record: RunRecord
    main_process: bool = True
