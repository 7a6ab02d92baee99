"""Checkpoints of a run: the last one, and what it had measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState


def closing_figures(
    state: TrainerState, seconds: float = 0.0, stopped: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Steps, seconds and mean loss, and ``stopped`` where training was ended early.

    Trainer's own mean is wrong after a resume: the sum since then over all steps.
    """
    logged = [entry["loss"] for entry in state.log_history if "loss" in entry]
    figures = {"steps": state.global_step, "train_loss": sum(logged) / max(len(logged), 1), "train_seconds": seconds}
    return figures | ({"stopped": dict(stopped)} if stopped else {})


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run: the newest that holds Trainer's state, written last."""
    found = [path for path in folder.glob("checkpoint-*") if (path / TRAINER_STATE_NAME).is_file()]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
