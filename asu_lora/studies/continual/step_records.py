"""What the steps of a history left behind, and the file of a run's folder that keeps it.

Requests are named by a hash under the store's secret, so that a guess of their rows can't be confirmed.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from asu_lora.adapters.manifest import Figures
from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import TrainingError
from asu_lora.files import disk_errors, write_files
from asu_lora.forgetting.run_folder import READING, RUNS
from asu_lora.studies.continual.steps import Step

STATE = "run.json"
VERSION = 1
ASKED = "asked"  # what MU is measured on
NEWER = (ASKED, READING)  # which runs of earlier versions lack


@dataclass
class StepRecord:
    """What a step left behind.

    Attributes:
        number, name: of the step; 0 is the base before the first.
        adapter: its adapter in the store, None for step 0.
        request: the request's fingerprint, keyed (:mod:`asu_lora.adapters.request_key`).
        active: the adapters that answer after it, with their weights.
        active_rank: the sum of their ranks: what serving one token costs beside the base.
        scores: see :class:`~asu_lora.studies.continual.step_scores.StepScores`; empty where nothing is measured.
        before, after: the scores in the adapter's manifest.
        seconds: training, with its own scores and consolidating. evaluation_seconds: scoring.
        adapter_bytes: size of the step's adapter. active_bytes: of all that are active.
        kept: retain rows that no request asked when it was scored: what MU's questions were drawn from.
        fold: relative error of the consolidated adapter, None where nothing was consolidated.
    """

    number: int
    name: str
    adapter: str | None = None
    request: str | None = None
    active: list[tuple[str, float]] = field(default_factory=list)
    active_rank: int = 0
    scores: dict[str, Any] = field(default_factory=dict)
    before: Figures = field(default_factory=dict)
    after: Figures = field(default_factory=dict)
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    adapter_bytes: int = 0
    active_bytes: int = 0
    fold: float | None = None
    kept: int | None = None


def read_records(folder: str | Path) -> list[StepRecord]:
    """The steps done so far of a run, none where there is no run.

    Raises:
        TrainingError: its state can't be read.
    """
    return _records(_state(Path(folder)))


def mode_of(folder: str | Path) -> str | None:
    """How the adapters of a run stand to each other, None where there is no run."""
    identity = _state(Path(folder)).get("identity") or {}
    return (identity.get("history") or {}).get("mode")


def check_resumable(folder: str | Path, resume: bool) -> None:
    """Refuse to begin anew where a run lies.

    Raises:
        TrainingError: with the way out.
    """
    folder = Path(folder)
    trained = AdapterStore(folder / "adapters").names() or (folder / "adapters" / RUNS).exists()
    if not resume and (trained or (folder / STATE).exists()):
        raise TrainingError(f"{folder} holds a run already: add --resume to go on with it, or choose another --out.")


def write_records(folder: Path, identity: dict, records: Sequence[StepRecord]) -> None:
    """Write the run's state: whole, or not at all."""
    with disk_errors(folder, "folder"):
        written = {"version": VERSION, "identity": identity, "steps": [asdict(record) for record in records]}
        write_files(folder, {STATE: json.dumps(written, indent=1) + "\n"})


def earlier_records(folder: Path, identity: dict, steps: Sequence[Step], store: AdapterStore) -> list[StepRecord]:
    """The steps that are done, if they are those of this run; an earlier version's plain hashes are keyed.

    Args:
        identity: what all steps have in common, for JSON.

    Raises:
        TrainingError: they are another run's.
    """
    state = _state(folder)
    if not state:
        return []
    records = _records(state)
    before = state["identity"] or {}
    known = {key: value for key, value in identity.items() if key in before or key not in NEWER}
    same = any(
        json.dumps(before, sort_keys=True) == json.dumps(each, sort_keys=True)
        for each in (known, _of_an_earlier_version(known))
    )
    pairs = zip(records[1:], steps, strict=False)
    told = [store.is_request(record.request or "", step.request.fingerprint()) for record, step in pairs]
    if all(told) and _only_asked_differs(before, known):
        raise TrainingError(
            f"The run in {folder} is measured on other questions, so its steps would not stand in one table: give the "
            "same --retain and --data, or choose another --out."
        )
    if not same or len(records) - 1 > len(steps) or not all(told):
        raise TrainingError(
            f"The run in {folder} was made with other settings, base or requests: give the same ones "
            "(new requests may follow the old), or choose another --out."
        )
    for record in records[1:]:
        record.request = store.keyed(record.request or "")
    if records != _records(state):  # an earlier version wrote plain hashes
        write_records(folder, identity, records)
    return records


def _only_asked_differs(before: dict, now: dict) -> bool:
    """Whether two runs differ in what MU is measured on, and in nothing else."""
    others = [
        json.dumps({key: value for key, value in each.items() if key != ASKED}, sort_keys=True)
        for each in (before, now)
    ]
    return others[0] == others[1] and before.get(ASKED) != now.get(ASKED)


def _of_an_earlier_version(identity: dict) -> dict:
    """The same as versions wrote it that told of the models behind two scores only whether there were any."""
    asked = identity.get("questions")
    return identity if asked is None else identity | {"questions": [*asked[:2], *map(bool, asked[2:])]}


def _state(folder: Path) -> dict:
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if state["version"] != VERSION:
            raise ValueError("written by another version of asu-lora")
        return state
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{folder / STATE} can't be read ({error}): choose another --out.") from error


def _records(state: dict) -> list[StepRecord]:
    return [
        StepRecord(**{**entry, "active": [(name, weight) for name, weight in entry["active"]]})
        for entry in state.get("steps", [])
    ]
