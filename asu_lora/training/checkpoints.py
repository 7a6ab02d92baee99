"""Checkpoints of a run: the last one, and what it had measured."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState, TrainerState


def closing_figures(
    state: TrainerState, seconds: float = 0.0, stopped: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Steps, seconds and mean loss, and ``stopped`` where training was ended early.

    Trainer's own mean is wrong after a resume: the sum since then over all steps.
    """
    logged = [entry["loss"] for entry in state.log_history if "loss" in entry]
    figures = {"steps": state.global_step, "train_loss": sum(logged) / max(len(logged), 1), "train_seconds": seconds}
    return figures | ({"stopped": dict(stopped)} if stopped else {})


def kept_in(checkpoint: Path, callback: ExportableState) -> dict[str, Any]:
    """What a checkpoint keeps of a callback: the attributes that it exported."""
    state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    return state["stateful_callbacks"][type(callback).__name__]["attributes"]


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run: a full disk or a power cut may leave a newer one that can't be read."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return next(filter(_is_whole, found), None)


def keep_whole(folder: Path) -> Path | None:
    """Remove checkpoints that were cut off, which take the room that a full disk lacks; the newest of the others."""
    for checkpoint in folder.glob("checkpoint-*"):
        if not _is_whole(checkpoint):
            shutil.rmtree(checkpoint, ignore_errors=True)
    return last_checkpoint(folder)


def _is_whole(checkpoint: Path) -> bool:
    """Whether Trainer's state, written last, is there, and no file was cut off: half a zip file is none."""
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        with safe_open(checkpoint / SAFETENSORS_WEIGHTS_NAME, "pt"):
            pass
    except (OSError, ValueError, SafetensorError):
        return False
    states = [checkpoint / OPTIMIZER_NAME, checkpoint / SCHEDULER_NAME]
    states += [path for pattern in ("rng_state*", "attacker*") for path in checkpoint.glob(pattern)]
    return all(map(is_zipfile, states))
