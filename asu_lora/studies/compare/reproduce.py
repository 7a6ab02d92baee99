"""A row made again from its record alone: on the CPU its scores are the same to the last digit."""

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import SettingError
from asu_lora.progress import Progress
from asu_lora.studies.compare.compare import Comparison
from asu_lora.studies.compare.grid import Run
from asu_lora.studies.compare.identity import SETTINGS, known_as, log_identity, run_identity, shared_identity
from asu_lora.studies.compare.results import LEAK, QUALITY, RunResult, read_result
from asu_lora.studies.compare.runner import ADAPTERS, RUNS, Runner
from asu_lora.studies.methods import method


@dataclass(frozen=True)
class Reproduction:
    """What came of it.

    Attributes:
        recorded, again: the row as it is recorded, and as it was made now.
        differences: what is not the same, each with both values: ``sets.forget.rouge``, ``training.train_loss``, ...
    """

    recorded: RunResult
    again: RunResult
    differences: dict[str, tuple[Any, Any]]

    @property
    def same(self) -> bool:
        return not self.differences


def reproduce(comparison: Comparison, name: str, progress: Progress) -> Reproduction:
    """Make a row again, beside the comparison, and compare every score and the training loss.

    Args:
        comparison: of the request, base, sets and settings that the row was made with; its folder is not changed.
        name: of the row's file in OUT/runs, without ``.json``.

    Raises:
        SettingError: no such row, one that failed, or one of another comparison.
    """
    folder = comparison.out / RUNS
    file = folder / f"{name.removesuffix('.json')}.json"
    names = ", ".join(sorted(path.stem for path in folder.glob("*.json"))) or "none"
    try:
        entry = json.loads(file.read_text(encoding="utf-8"))
        run = Run.of(method(entry["method"]), entry["lr"], entry.get("changes", {}))
    except (OSError, ValueError, KeyError) as error:
        raise SettingError(f"{comparison.out} has no row '{name}': it has {names}.") from error
    shared = shared_identity(comparison, AdapterStore(comparison.out / ADAPTERS).keyed)
    before = known_as(comparison.out / SETTINGS, shared, shared_identity(comparison, lambda plain: plain))
    recorded = read_result(file, run_identity(before or shared, run))
    if recorded is None:
        raise SettingError(
            f"The row '{name}' was made with another request, base or settings than these (or another version): give "
            "those of its comparison."
        )
    if not recorded.done:
        raise SettingError(f"The row '{name}' has no scores to compare with: it is {recorded.state}.")
    log = log_identity(comparison.reference, AdapterStore(comparison.out / ADAPTERS).keyed)
    if QUALITY in recorded.beside and (log is None or recorded.log not in (None, log)):
        raise SettingError(f"The row '{name}' has a forget quality: give the --retain-log that it was held against.")
    with tempfile.TemporaryDirectory() as beside:
        asked = LEAK in recorded.beside
        own = replace(comparison, out=Path(beside), records=False, leaks=asked, shared=shared, results=[])
        again = Runner(own).make(run, progress)
    return Reproduction(recorded, again, _differences(_figures(recorded), _figures(again)))


def _figures(result: RunResult) -> dict[str, Any]:
    """Everything that must be the same: scores, means of sets, speech, tau and training loss."""
    kept = {key: result.training.get(key) for key in ("tau", "steps", "train_loss")}
    return {
        "state": result.state,
        "scores": result.scores,
        "speech": result.speech,
        "beside": result.beside,
        "training": kept,
    }


def _differences(one: Any, other: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    if isinstance(one, dict) and isinstance(other, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in {**one, **other}:
            found |= _differences(one.get(key), other.get(key), f"{path}.{key}" if path else str(key))
        return found
    return {} if one == other else {path: (one, other)}
