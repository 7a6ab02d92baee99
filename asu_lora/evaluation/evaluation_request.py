"""What ``asu-lora evaluate`` is asked for: a model, questions, and what to compare with.

A request refuses contradictions when it is made, and everything that can't be read before the base is loaded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from asu_lora.data.column_notes import columns_note
from asu_lora.data.examples import Example
from asu_lora.data.request import read_examples
from asu_lora.data.sampling import sample
from asu_lora.errors import DataError, SettingError
from asu_lora.evaluation.evaluate import evaluate
from asu_lora.evaluation.lm_eval import check_installed, run_tasks
from asu_lora.evaluation.membership import add_attacks, add_holdout
from asu_lora.evaluation.metrics.cosine_similarity import SentenceEncoder
from asu_lora.evaluation.metrics.entailment import Judge
from asu_lora.evaluation.question_sets import FORGET, RETAIN, QuestionSet, own_sets, with_paraphrases
from asu_lora.evaluation.record import Record
from asu_lora.evaluation.result import Evaluation
from asu_lora.evaluation.retain_comparison import check_questions, compare_with_log
from asu_lora.evaluation.retain_log import read_log
from asu_lora.evaluation.scoring_models import scoring_models
from asu_lora.evaluation.suites import SUITES, Suite
from asu_lora.models.adapter_stack import Stack, load
from asu_lora.models.stack_rows import RowSettings
from asu_lora.progress import Progress


@dataclass(frozen=True)
class EvaluationRequest:
    """One evaluation, as a person asks for it.

    Attributes:
        base, adapters, store, precision, device, trust_remote_code: the model, as :func:`asu_lora.load` takes it.
        max_length, system_prompt, template_date: how rows are written; None as the adapters were trained.
        forget, retain: files of the person's own questions; ``where`` selects rows of ``forget``.
        suite: a name of :data:`asu_lora.evaluation.suites.SUITES`, instead of own files.
        data, split, task: the suite's folder or hub id, and TOFU's split and task (None for every row).
        questions: most questions of a set.
        encoder, nli: the models behind cosine similarity and entailment, by hub id or folder.
        retain_log: what a model that never saw the forget set scored (:func:`read_log`).
        holdout: a file of examples like those to forget that the model never saw.
        gradient_norm: whether membership is also told by gradients, which takes a backward pass a row.
        tasks: tasks of lm-evaluation-harness.

    Raises:
        SettingError: two of them contradict each other.
    """

    base: str = "smollm2-135m"
    adapters: Sequence[str] = ()
    store: str | Path = "adapters"
    precision: str = "nf4"
    device: str | None = None
    forget: str | None = None
    retain: str | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    suite: str | None = None
    data: str | None = None
    split: str = "forget01"
    task: str | None = "1"
    questions: int = 300
    encoder: str | None = None
    nli: str | None = None
    retain_log: str | None = None
    holdout: str | None = None
    gradient_norm: bool = False
    tasks: Sequence[str] = ()
    trust_remote_code: bool = False
    max_length: int | None = None
    system_prompt: str | None = None
    template_date: str | None = None

    def __post_init__(self) -> None:
        if self.suite is not None and self.suite not in SUITES:
            raise SettingError(f"The suite '{self.suite}' is none of {', '.join(SUITES)}.")
        if self.benchmark and self.benchmark.hub is None and not self.data:
            raise SettingError(f"--suite {self.suite} needs --data: the folder with its files, or its hub id.")
        if self.holdout and not self.asks_questions:
            raise SettingError(f"--holdout is for questions of your own or of TOFU; {self.suite} has its own sets.")
        if self.retain_log and self.suite == "wmdp":
            raise SettingError("--retain-log is for TOFU, MUSE and questions of your own; nothing of wmdp needs it.")
        if self.gradient_norm and not (self.holdout or (self.suite or "").startswith("muse")):
            raise SettingError("--gradient-norm tells members from unseen rows: name those with --holdout.")
        if (self.retain_log or self.holdout) and self.tasks and not self.names_questions:
            raise SettingError("--retain-log and --holdout need something to compare with: name --forget or --suite.")

    @property
    def benchmark(self) -> Suite | None:
        """The suite itself."""
        return SUITES[self.suite] if self.suite else None

    @property
    def asks_questions(self) -> bool:
        """Whether question sets are scored (own files, TOFU), not a benchmark by rules of its own."""
        return self.benchmark is None or self.benchmark.score is None

    @property
    def names_questions(self) -> bool:
        return bool(self.suite or self.forget or self.retain)

    def load(self) -> "LoadedEvaluation":
        """Read all that is named, then load the model.

        Raises:
            AsuLoraError: something is missing, broken or of other questions; before the base is loaded.
        """
        if self.tasks:
            check_installed()
        log = read_log(self.retain_log) if self.retain_log else None
        sets = with_paraphrases(self._question_sets())
        holdout = sample(read_examples(self.holdout), self.questions) if self.holdout else []
        _refuse_members(holdout, sets)
        if log is not None and self.asks_questions:
            check_questions(log, sets, holdout)
        suite = self.benchmark
        benchmark_data = suite.read(self.data or suite.hub, self.questions) if suite and suite.score else None
        rows = RowSettings(
            max_length=self.max_length, system_prompt=self.system_prompt, template_date=self.template_date
        )
        stack = load(
            self.base,
            self.adapters,
            self.store,
            self.precision,
            self.device,
            trust_remote_code=self.trust_remote_code,
            rows=rows,
        )
        loaded = LoadedEvaluation(self, stack, sets, benchmark_data, log, holdout)
        if sets:
            loaded.encoder, loaded.nli, loaded.notes = scoring_models(self.encoder, self.nli)
        return loaded

    def _question_sets(self) -> list[QuestionSet]:
        suite = self.benchmark
        if not self.asks_questions or (self.tasks and not self.names_questions):
            return []
        if suite is not None:
            return suite.read(self.data, self.split, self.task, self.questions)
        return own_sets(self.forget, self.retain, self.questions, dict(self.where))


def _refuse_members(holdout: Sequence[Example], sets: Sequence[QuestionSet]) -> None:
    """Refuse held-out rows that are to be forgotten too: they pull every AUC to 0.5, whatever the model says.

    Raises:
        DataError: with how many there are.
    """
    members = {example.key() for questions in sets if questions.name == FORGET for example in questions.examples}
    same = [example.row for example in holdout if example.key() in members]
    if same:
        raise DataError.plain(
            f"{len(same)} of the {len(holdout)} held-out rows (first: row {same[0]}) stand in the forget set too: "
            "--holdout names rows that the model never saw, take them out of one file."
        )


@dataclass
class LoadedEvaluation:
    """A request with everything in memory.

    Attributes:
        sets: the question sets; empty where a benchmark has data of its own.
        benchmark_data: what the benchmark's ``read`` gave.
        log: the retain-only model's records.
        holdout: examples that the model never saw.
        encoder, nli: the scoring models; None where they can't be had, which ``notes`` then say.
    """

    request: EvaluationRequest
    stack: Stack
    sets: list[QuestionSet]
    benchmark_data: object = None
    log: list[Record] | None = None
    holdout: list[Example] = field(default_factory=list)
    encoder: SentenceEncoder | None = None
    nli: Judge | None = None
    notes: list[str] = field(default_factory=list)

    def score(self, progress: Progress | None = None) -> Evaluation:
        """Everything that was asked for but the harness' tasks."""
        suite = self.request.benchmark
        if suite is not None and suite.score is not None:
            more: dict[str, object] = {"log": self.log} if self.log is not None else {}
            if self.request.gradient_norm:
                more["gradients"] = True
            return suite.score(self.stack, self.benchmark_data, progress=progress, **more)
        if not self.sets:
            return Evaluation({}, [])
        notes = [*self.stack.notes, *self.notes, *self._left_out()]
        result = evaluate(self.stack, self.sets, self.encoder, self.nli, notes, progress)
        if self.holdout:
            forget = [e for questions in self.sets if questions.name == FORGET for e in questions.examples]
            gradients_of = forget if self.request.gradient_norm else None
            add_holdout(result, self.stack, self.holdout, gradients_of, progress)
        if self.log is not None:
            compare_with_log(result, self.log, bool(self.holdout))
        if self.holdout:
            add_attacks(result)
        return result

    def _left_out(self) -> list[str]:
        """One sentence a file on the columns that no question is made of."""
        files = {questions.name: questions.examples for questions in self.sets if questions.name in (FORGET, RETAIN)}
        if self.holdout:
            files["holdout"] = tuple(self.holdout)
        said = ((name, columns_note(examples)) for name, examples in files.items())
        return [f"In the {name} set, {note[0].lower() + note[1:]}" for name, note in said if note]

    def run_tasks(self) -> dict[str, dict[str, float]]:
        """The tasks of lm-evaluation-harness (:func:`asu_lora.evaluation.lm_eval.run_tasks`)."""
        return run_tasks(self.stack, self.request.tasks)
