"""Taking one request of a history back: what that does to it, and to all the others."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from asu_lora.adapters.combine import combine
from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import SettingError
from asu_lora.models.adapter_stack import load
from asu_lora.models.loading import LoadedBase
from asu_lora.progress import Progress
from asu_lora.studies.continual.history import at_fitted_weights
from asu_lora.studies.continual.step_records import mode_of, read_records
from asu_lora.studies.continual.step_scores import Questions, efficacies
from asu_lora.studies.continual.steps import Step


@dataclass(frozen=True)
class TakenBack:
    """Scores before and after, percent, None where something needed is missing.

    Attributes:
        number: the step whose adapter was left out.
        utility: MU.
        efficacy: FE of every step's request, by step number; that of the step itself should fall to the base's.
    """

    number: int
    utility: tuple[float | None, float | None]
    efficacy: dict[int, tuple[float | None, float | None]]


def take_back(
    steps: Sequence[Step],
    base: LoadedBase,
    folder: str | Path,
    number: int,
    questions: Questions,
    progress: Progress | None = None,
) -> TakenBack:
    """Score what is active after the last step with and without step ``number``'s adapter; the store stays as it is.

    Where it is part of a consolidated adapter, it is subtracted again: exactly, if that sum was exact.

    Raises:
        SettingError: no such step, or a running adapter, which holds all requests at once.
    """
    records, progress = read_records(folder), progress or Progress()
    if number not in range(1, len(records)):
        raise SettingError(f"There is no step {number} to take back: the run has steps 1 to {len(records) - 1}.")
    names = [record.adapter for record in records[1:]]
    if len(names) > 1 and records[-1].active == [(names[-1], 1.0)]:
        raise SettingError(
            "A running adapter holds all requests at once: one of them can't be taken back; use --mode "
            "stack, orthogonal, independent or fitted."
        )
    store, done = AdapterStore(Path(folder) / "adapters"), steps[: len(records) - 1]
    found = []
    for without in (None, names[number - 1]):
        with _without(records[-1].active, without, store, refit=mode_of(folder) == "fitted") as adapters:
            stack = load(base, adapters, store, rows=questions.rows)
            try:
                found.append(efficacies(stack, done, questions, progress))
            finally:
                stack.unload()
    (utility, before), (later, after) = found
    return TakenBack(
        number, (utility, later), {step.number: (before[step.number], after[step.number]) for step in done}
    )


@contextmanager
def _without(
    active: Sequence[tuple[str, float]], name: str | None, store: AdapterStore, *, refit: bool
) -> Iterator[list[tuple[str | Path, float]]]:
    """The active adapters but one, at new weights where they are fitted; a consolidated one gets it subtracted, in a
    folder of its own."""
    if name is None or name in dict(active):
        left = [(adapter, weight) for adapter, weight in active if adapter != name]
        yield [*at_fitted_weights([adapter for adapter, _ in left], store)] if refit and name else [*left]
        return
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "without"
        combine(
            [*(store.resolve(part) for part, _ in active), store.resolve(name)],
            [*(weight for _, weight in active), -1.0],
            folder,
        )
        yield [(folder, 1.0)]
