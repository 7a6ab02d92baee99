"""One run from its beginning to its end: what its parts share, and what is put right however it ends."""

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from accelerate import PartialState
from peft import PeftModel
from torch import nn
from transformers import TrainerCallback, set_seed

from asu_lora.adapters.store import AdapterStore
from asu_lora.adding_up import default_settings
from asu_lora.config import ForgetConfig
from asu_lora.data.chat_template import undated_note
from asu_lora.data.encoding import Encoder, encoder_for
from asu_lora.data.examples import Example
from asu_lora.data.function_words import languages_note
from asu_lora.data.request import ForgetRequest
from asu_lora.data.row_format import RowFormat
from asu_lora.data.sampling import sample
from asu_lora.errors import NotEnoughMemory, TrainingError
from asu_lora.evaluation.set_scores import SetScores, score_sets
from asu_lora.files import disk_errors, refuse_read_only
from asu_lora.forgetting.result import ForgetResult, still_told
from asu_lora.forgetting.run_folder import RUNS, date_of_rows, remove_run, run_folder
from asu_lora.forgetting.run_lock import run_lock
from asu_lora.forgetting.run_record import RunRecord, write_adapter
from asu_lora.hardware.device import choose_device
from asu_lora.hardware.memory import is_out_of_memory, peak_memory
from asu_lora.losses import own_settings
from asu_lora.models.answer_ends import Endings
from asu_lora.models.frozen_adapters import FrozenAdapters, frozen_adapters
from asu_lora.models.frozen_layers import FrozenLayers
from asu_lora.models.loading import LoadedBase, load_base
from asu_lora.progress import Progress
from asu_lora.teacher.kept_states import Found, KeptStates
from asu_lora.training.arguments import check_optimizer
from asu_lora.training.checkpoints import keep_whole
from asu_lora.training.new_adapter import adapted
from asu_lora.training.orthogonal import KeepOrthogonal, refuse_alone
from asu_lora.training.target_modules import note_left_out


@dataclass
class ForgetRun:
    """What the parts of a run share.

    Attributes:
        name, store: of the adapter to be.
        process: which of an ``accelerate launch`` this is; the first alone writes.
        progress: silent in all processes but the first.
        record: what the manifest will tell.
        beneath: the adapters that the new one is trained on top of.
        resume: whether to go on where an interrupted run stopped.
        started: when, in seconds of :func:`time.monotonic`.
        encoder: of the rows, with the format that the settings ask for.
        refusals: the "I don't know" answers, where a loss looks at these.
        frozen_layers: the layers below the first adapter, computed once; None where all are run at every step.
        folder: of the checkpoints, once the new adapter is there.
        callbacks: further ones of the Trainer's.
        kept: what earlier runs on the same base computed of it, and this one adds to; nothing beside other adapters.
    """

    name: str
    store: AdapterStore
    process: PartialState
    progress: Progress
    record: RunRecord
    beneath: FrozenAdapters
    resume: bool
    started: float
    encoder: Encoder
    refusals: list[str] = field(default_factory=list)
    frozen_layers: FrozenLayers | None = None
    folder: Path = Path()
    callbacks: list[TrainerCallback] = field(default_factory=list)
    kept: KeptStates | None = None

    def __post_init__(self) -> None:
        if self.beneath.names or self.beneath.continued:  # then these may be what is read
            self.kept = None

    def kept_of(self, name: str) -> KeptStates | None:
        """What earlier runs computed of a set's rows, where that may be taken."""
        return None if self.kept and self.kept.retain_alone and name != "retain" else self.kept

    def once(self, key: Hashable, compute: Callable[[], Found], of: str = "forget") -> Found:
        """What an earlier run on this base computed of a set, or ``compute`` does now; see :class:`KeptStates`."""
        kept = self.kept_of(of)
        return kept.once(key, compute) if kept else compute()

    @property
    def config(self) -> ForgetConfig:
        return self.record.config

    @property
    def request(self) -> ForgetRequest:
        return self.record.request

    @property
    def base(self) -> LoadedBase:
        return self.record.base

    @property
    def model(self) -> nn.Module:
        """The base, with whatever adapters are active."""
        return self.base.model

    def questions(self, heldout: Sequence[Example] = ()) -> dict[str, Sequence[Example]]:
        """The rows that are scored before and after, by set."""
        if note := self.request.heldout_note(heldout):
            self.progress.note(note)
        most = self.config.eval_rows
        return {
            "forget": sample(self.request.forget, most),
            "retain": sample(self.request.retain, most),
            "heldout": heldout[:most],
        }

    def score(self, model: nn.Module, questions: Mapping[str, Sequence[Example]], when: str) -> dict[str, SetScores]:
        """Probability and greedy answers of every set that has questions.

        Args:
            model: the base, or the student.
            when: what the progress says, "before" or "after".
        """
        base, progress = self.base, self.progress
        scores = score_sets(model, base, self.encoder, questions, when, progress=progress, process=self.process)
        if when == "before":
            self.note_endings(scores)
        return scores

    def note_endings(self, scores: Mapping[str, SetScores]) -> None:
        """Say so if the base leaves its answers unended."""
        endings = sum((each.endings for each in scores.values()), Endings())
        if note := endings.note("The base"):
            self.progress.note(note)

    def teaching(self) -> AbstractContextManager[None]:
        """Inside, the model is what teacher and reference are made of: adapters beneath off, or with the teacher
        "stack" on."""
        return nullcontext() if self.config.teacher == "stack" else self.beneath.inactive()

    @contextmanager
    def new_adapter(self) -> Iterator[PeftModel]:
        """The student: a fresh adapter, with the run's name and folder to itself."""
        with self.at_work(), adapted(self.model, self.config, self.beneath) as student:
            self.record.count_parameters(student)
            if self.config.orthogonal:
                self.callbacks.append(KeepOrthogonal(student, self.beneath.names))
            yield student

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Hold the run's name and folder. Checkpoints stay behind only where a second try can succeed."""
        self.progress.stage("Reading the base's fingerprint")
        self.record.fingerprint = self.base.source.fingerprint()
        with run_lock(self.store.root / RUNS, self.name, self.process):
            self.folder = run_folder(
                self.store,
                self.name,
                self.record,
                idk=self.refusals,
                resume=self.resume,
                process=self.process,
                beneath=self.beneath,
            )
            try:
                yield
            except BaseException as error:
                # more memory, or less at a time, may be there the next time
                hopeless = isinstance(error, TrainingError) and not isinstance(error, NotEnoughMemory)
                if self.process.is_main_process and (hopeless or keep_whole(self.folder) is None):
                    remove_run(self.folder)
                raise

    def publish(
        self, student: PeftModel, before: Mapping[str, SetScores], after: Mapping[str, SetScores]
    ) -> ForgetResult:
        """Write the adapter beside the store and rename it into it; the checkpoints go."""
        self.record.before = {k: v for name, scores in before.items() for k, v in scores.summary(name).items()}
        self.record.after = {k: v for name, scores in after.items() for k, v in scores.summary(name).items()}
        if note := still_told(self.record.before, self.record.after):
            self.progress.note(note)
        self.record.seconds = time.monotonic() - self.started
        self.record.peak_memory = peak_memory(self.base.device)
        self.process.wait_for_everyone()
        if self.process.is_main_process:
            self.progress.stage("Writing the adapter")
            self.record.key_hashes(self.store.keyed)
            with self.store.stage(self.name) as staging:
                write_adapter(student, staging, self.name, self.record)
            remove_run(self.folder)
        self.process.wait_for_everyone()
        return ForgetResult(
            self.name,
            self.store.root / self.name,
            self.record.before,
            self.record.after,
            {name: (before[name], after[name]) for name in before},
            self.record,
            self.process.is_main_process,
        )


def with_losses(config: ForgetConfig) -> ForgetConfig:
    """The settings, whose losses have all the numbers that are given: refused before anything is loaded.

    Raises:
        SettingError: a number that neither loss has, or one out of its range.
    """
    own_settings(config.objective, config.retain_loss, config.loss_settings)
    return config


@contextmanager
def open_run(
    request: ForgetRequest,
    base: str | Path | LoadedBase,
    config: ForgetConfig | None = None,
    *,
    name: str | None = None,
    store: str | Path | AdapterStore = "adapters",
    on_top_of: Iterable[str | Path | tuple[str | Path, float]] = (),
    continue_from: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    kept: KeptStates | None = None,
) -> Iterator[ForgetRun]:
    """The base in memory, with the adapters beneath on, and all that a run needs besides.

    After the block, however it ends, a base that was given is a plain base again and the progress is closed.

    The arguments are those of :func:`asu_lora.forgetting.forget.forget`.

    Raises:
        AsuLoraError: what can be refused before training; NotEnoughMemory for what torch or the system said.
    """
    on_top_of = list(on_top_of)
    config = with_losses(config or default_settings(alone=not on_top_of))
    store, progress = store if isinstance(store, AdapterStore) else AdapterStore(store), progress or Progress()
    name, started = name or request.name, time.monotonic()
    process = this_process(config, base)
    try:
        with disk_errors(store.root):
            store.check_name(name)
            refuse_read_only(store.root)
        process.wait_for_everyone()  # a process that starts late must not find the adapter of one that is done
        heard = progress if process.is_main_process else Progress()
        heard.stage("Loading the base")
        loaded = _loaded(base, config, process)
        check_optimizer(config, loaded.device)
        with frozen_adapters(loaded, on_top_of, store, continue_from) as beneath:
            left_out = _try_adapter(loaded, config, beneath)
            set_seed(config.seed)
            day = date_of_rows(store, name, loaded.tokenizer, config.template_date, resume)
            undated = undated_note(config.template_date, day)
            config = replace(config, template_date=day, phrasings=request.phrasings(config.phrasings))
            encoder = encoder_for(loaded.tokenizer, loaded.model.config, RowFormat.of(config))
            notes = [*loaded.notes(), *encoder.notes(), languages_note(request.forget), left_out, undated]
            for note in filter(None, notes):
                heard.note(note)
            layers, began = config.layers(loaded.number_of_layers), beneath.began_with()
            record = RunRecord(config, request, loaded, layers, on_top_of=beneath.on_top_of, continued=began)
            yield ForgetRun(name, store, process, heard, record, beneath, resume, started, encoder, kept=kept)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise NotEnoughMemory(
            "There is not enough memory for this run: lower --micro-batch-tokens, shorten "
            "--max-length, or use --precision nf4."
        ) from error
    finally:
        progress.close()


def this_process(config: ForgetConfig, base: str | Path | LoadedBase) -> PartialState:
    """Which of the processes of an ``accelerate launch`` this is; else the only one."""
    device = base.device if isinstance(base, LoadedBase) else choose_device(config.device)
    return PartialState(cpu=device.type == "cpu")


def _loaded(base: str | Path | LoadedBase, config: ForgetConfig, process: PartialState) -> LoadedBase:
    if isinstance(base, LoadedBase):
        return base
    device = str(process.device) if process.use_distributed else config.device
    return load_base(base, config.precision, device, trust_remote_code=config.trust_remote_code)


def _try_adapter(base: LoadedBase, config: ForgetConfig, beneath: FrozenAdapters) -> str | None:
    """Refuse now, not after minutes, an adapter that doesn't fit; say what of a mixture of experts gets none."""
    refuse_alone(config, beneath.names)
    with adapted(base.model, config, beneath) as student:
        if config.orthogonal:
            KeepOrthogonal(student, beneath.names)
        return note_left_out(student)
