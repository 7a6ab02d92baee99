"""The same requests with several methods: a run each, one table and one figure of all."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from asu_lora.config import ForgetConfig
from asu_lora.errors import DataError, SettingError
from asu_lora.evaluation.question_sets import AUTHORS, WORLD
from asu_lora.evaluation.scoring_models import scoring_models
from asu_lora.evaluation.suites.tofu import tofu_sets
from asu_lora.files import check_writable
from asu_lora.models.loading import LoadedBase, load_base
from asu_lora.models.stack_rows import rows_of_settings
from asu_lora.progress import Progress
from asu_lora.studies.continual.history import HistoryConfig, run_history
from asu_lora.studies.continual.report import write_report
from asu_lora.studies.continual.step_records import StepRecord, check_resumable
from asu_lora.studies.continual.step_scores import Questions, retain_questions
from asu_lora.studies.continual.steps import Step, read_steps
from asu_lora.studies.continual.take_back import TakenBack, take_back
from asu_lora.studies.methods import file_name, method_configs
from asu_lora.version import library_versions

Records = dict[str, list[StepRecord]]


@dataclass(frozen=True)
class ContinualConfig:
    """What a history is beside its requests: methods, how adapters stand to each other, what is scored.

    Attributes:
        methods: see :func:`~asu_lora.studies.methods.method_configs`; None is the config's own losses.
        given: settings that the methods' papers don't replace (:meth:`~asu_lora.studies.methods.Method.weights`).
        history: how the adapters stand to each other.
        retain, by, most_steps: see :func:`~asu_lora.studies.continual.steps.read_steps`.
        questions: most questions of a request or set; 0 scores nothing.
        data: TOFU's folder or hub id, for real authors and world facts.
        encoder, nli: models behind two of the scores.
        take_back: at the end, score every method without this step's adapter too.

    Raises:
        SettingError: a step to take back that can't be scored without its adapter.
    """

    methods: str | None = None
    given: Collection[str] = ()
    history: HistoryConfig = field(default_factory=HistoryConfig)
    retain: str | Path | None = None
    by: str | None = None
    most_steps: int | None = None
    questions: int = 40
    data: str | Path | None = None
    encoder: str | None = None
    nli: str | None = None
    take_back: int | None = None

    def check_take_back(self, steps: Sequence[Step]) -> None:
        """Refuse a step to take back that the history doesn't have, or can't score alone."""
        back = self.take_back
        if back is None or (self.questions and 1 <= back <= len(steps) and self.history.mode != "running"):
            return
        raise SettingError(
            f"Step {back} can't be taken back and scored: it needs --questions, one of the {len(steps)} "
            "steps, and another --mode than running."
        )


def run_methods(
    requests: Sequence[str | Path],
    base: str | LoadedBase,
    config: ForgetConfig,
    out: str | Path,
    continual: ContinualConfig | None = None,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> tuple[Records, dict[str, TakenBack], list[Path]]:
    """Unlearn the requests with every method, in ``out/METHOD``; the report is written anew after every step.

    Args:
        requests: files, or folders of files, in order.
        config: the settings of every step.
        resume: go on with the run that lies in ``out``.

    Returns:
        The steps of every method, what taking one back did, and the files of the report.

    Raises:
        AsuLoraError: one of its kinds; all files and settings are checked before anything is trained.
    """
    continual, progress, out = continual or ContinualConfig(), progress or Progress(), Path(out)
    chosen = method_configs(continual.methods, config, continual.given)
    steps = read_steps(requests, continual.retain, continual.by, continual.most_steps)
    _check_runs(chosen, continual.history, out, resume)
    continual.check_take_back(steps)
    questions = _questions(steps, continual, config)
    check_writable(out)
    progress.stage("Loading the base")
    base = _loaded(base, config)
    about = _about(base, config, continual.history, steps, questions) | _weights(chosen, config)
    records: Records = {}

    for name, own in chosen.items():

        def report(done: list[StepRecord], name: str = name) -> None:
            records[name] = done
            write_report(out, records, about)

        progress.note(f"Method {name}")
        records[name] = run_history(
            steps,
            base,
            own,
            out / file_name(name),
            continual.history,
            questions,
            resume=resume,
            progress=progress,
            done=report,
            before=next((found[0] for found in records.values()), None),  # the base is the same for all methods
        )
    taken: dict[str, TakenBack] = {}
    if continual.take_back is not None and questions:
        taken = _without(continual.take_back, chosen, steps, base, out, questions=questions, progress=progress)
    progress.close()
    return records, taken, write_report(out, records, about, taken)


def _check_runs(chosen: Mapping[str, ForgetConfig], history: HistoryConfig, out: Path, resume: bool) -> None:
    """Refuse methods that don't go with the history, and folders that hold a run already."""
    for name, own in chosen.items():
        history.check(own)
        check_resumable(out / file_name(name), resume)


def _without(
    step: int,
    methods: Iterable[str],
    steps: Sequence[Step],
    base: LoadedBase,
    out: Path,
    *,
    questions: Questions,
    progress: Progress,
) -> dict[str, TakenBack]:
    """What every method's history is without one of its steps."""
    taken = {}
    for name in methods:
        progress.note(f"Method {name} without step {step}")
        taken[name] = take_back(steps, base, out / file_name(name), step, questions, progress)
    return taken


def _loaded(base: str | LoadedBase, config: ForgetConfig) -> LoadedBase:
    if isinstance(base, LoadedBase):
        return base
    return load_base(base, config.precision, config.device, trust_remote_code=config.trust_remote_code)


def _questions(steps: Sequence[Step], continual: ContinualConfig, config: ForgetConfig) -> Questions | None:
    """What every step is scored on; None scores nothing.

    Raises:
        DataError: no retain question is left.
    """
    most, general = continual.questions, []
    if not most:
        return None
    if continual.data:
        general = [found for found in tofu_sets(continual.data, most=most) if found.name in (AUTHORS, WORLD)]
    kept = retain_questions(steps, most)
    if not kept.examples:
        raise DataError(
            "No retain question is left that no request asks: MU has nothing to stand on; give a --retain "
            "file with others, or --questions 0."
        )
    sentence, entailment, notes = scoring_models(continual.encoder, continual.nli)
    return Questions((kept, *general), most, sentence, entailment, tuple(notes), rows_of_settings(config))


def _weights(chosen: Mapping[str, ForgetConfig], config: ForgetConfig) -> dict[str, Any]:
    """The weights of the methods whose papers have others than the settings."""
    own = {name: (each.forget_coeff, each.retain_coeff) for name, each in chosen.items()}
    other = {name: pair for name, pair in own.items() if pair != (config.forget_coeff, config.retain_coeff)}
    said = {name: f"forget {forget:g}, retain {retain:g}" for name, (forget, retain) in other.items()}
    return {"weights": said} if said else {}


def _about(
    base: LoadedBase, config: ForgetConfig, history: HistoryConfig, steps: Sequence[Step], questions: Questions | None
) -> dict[str, Any]:
    """What the report says of the run; of a base's folder only the last part of its path."""
    settings = {
        key: value
        for key, value in asdict(config).items()
        if key not in ("objective", "retain_loss", "orthogonal", "device", "report_to")
    }
    return {
        "base": f"{Path(base.source.name).name}, {base.precision} on {base.device.type}",
        "mode": {key: value for key, value in asdict(history).items() if value is not None},
        "requests": f"{len(steps)}, of {', '.join(str(len(step.request.forget)) for step in steps)} rows",
        "retain_rows": ", ".join(str(len(step.request.retain)) for step in steps),
        "questions": {s.name: len(s.examples) for s in questions.general} if questions else "none",
        "settings": settings,
        "versions": library_versions(),
        "notes": list(questions.notes) if questions else [],
    }
