"""One forget request in, one LoRA adapter out: the main job, from top to bottom.

request -> encoded rows -> figures before -> tau -> targets of the frozen base -> training -> the student's own answers
-> training with these -> figures after -> adapter folder, written beside the store and renamed into it.

Under ``accelerate launch`` every process runs all of this: they share the training steps and the questions that
are measured, and the first of them alone writes and tells.
"""

import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate.utils import broadcast_object_list
from transformers import set_seed

from asu_lora.adapters.store import AdapterStore
from asu_lora.batches.collator import Collator
from asu_lora.batches.forget_retain_pairs import ForgetRetainPairs
from asu_lora.batches.token_budget import tokens_of_training
from asu_lora.config import ForgetConfig
from asu_lora.data.chat_template import pinned_date
from asu_lora.data.encoding import Encoded, encoder_for
from asu_lora.data.examples import Example
from asu_lora.data.refusals import refusals
from asu_lora.data.request import ForgetRequest
from asu_lora.data.row_format import RowFormat
from asu_lora.data.sampling import sample
from asu_lora.data.token_classes import token_classes
from asu_lora.errors import NotEnoughMemory, SettingError, TrainingError
from asu_lora.evaluation.set_scores import SetScores, score_sets
from asu_lora.files import disk_errors
from asu_lora.forgetting.prepare import build_objectives, encode_halves, note_cut_answers
from asu_lora.forgetting.run import fingerprint, this_process
from asu_lora.forgetting.run_folder import LAST_PART, RUNS, date_of_run, remove_run, run_folder
from asu_lora.forgetting.run_lock import run_lock
from asu_lora.forgetting.run_record import RunRecord, write_adapter
from asu_lora.hardware.memory import is_out_of_memory, peak_memory
from asu_lora.losses import needs_of
from asu_lora.losses.on_policy import OnPolicyKL
from asu_lora.models.answer_ends import Endings
from asu_lora.models.decoder import number_of_layers
from asu_lora.models.frozen_adapters import FrozenAdapters, frozen_adapters
from asu_lora.models.frozen_layers import find_frozen_layers, find_frozen_layers_above
from asu_lora.models.loading import LoadedBase, load_base
from asu_lora.models.output_head import FrozenHead
from asu_lora.models.packing_trial import packing_of
from asu_lora.progress import Progress
from asu_lora.teacher import tau as calibration
from asu_lora.teacher.fluency import fluency_masks
from asu_lora.teacher.targets import compute_references, passes_needed
from asu_lora.training.arguments import check_optimizer, training_arguments
from asu_lora.training.checkpoints import last_checkpoint
from asu_lora.training.new_adapter import adapted
from asu_lora.training.on_policy import answer_on_policy
from asu_lora.training.orthogonal import KeepOrthogonal
from asu_lora.training.phases import phases
from asu_lora.training.student import Student
from asu_lora.training.trainer import check_finite, train


@dataclass
class ForgetResult:
    """What a run left behind.

    Attributes:
        name, path: the adapter in the store.
        before, after: figures (see :meth:`asu_lora.evaluation.set_scores.SetScores.summary`).
        sets: the answers behind the figures, ``{"forget": (before, after), ...}``; in memory only.
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


def forget(
    request: ForgetRequest,
    base: str | LoadedBase = "smollm2-135m",
    config: ForgetConfig | None = None,
    name: str | None = None,
    store: str | Path | AdapterStore = "adapters",
    heldout: list[Example] | None = None,
    idk_file: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    tau: calibration.TauChoice | None = None,
    on_top_of: Iterable[str | Path | tuple[str | Path, float]] = (),
    continue_from: str | Path | None = None,
) -> ForgetResult:
    """Train one LoRA adapter that makes the base forget the request, and put it into the store.

    Args:
        request: what to forget and what to keep.
        base: hub id, folder or ``smollm2-135m``, or a base that is already loaded (then the config's
            precision and device don't apply).
        config: the settings; the defaults need no thought.
        name: the adapter's name in the store, by default the request's.
        heldout: further questions to measure before and after, in neither set (paraphrases, say).
        idk_file: "I don't know" answers for the objectives that use them, instead of the built-in ones.
        resume: go on where an interrupted run of the same name, request and settings stopped.
        progress: hears what is being done.
        tau: what another run chose for the same base, request and smoothed layers, to save choosing it again.
        on_top_of: adapters of the same base that are active and frozen while the new one trains, as
            :func:`asu_lora.load` takes them. The figures before are theirs; teacher and reference are the untouched
            base's, or theirs too where the config's teacher is "stack".
        continue_from: an adapter of the same settings whose weights the new one begins with.

    Raises:
        AsuLoraError: one of its kinds, with one sentence; the store is then as it was, and a loaded base is
            a plain base again.
    """
    config, progress = config or ForgetConfig(), progress or Progress()
    store = store if isinstance(store, AdapterStore) else AdapterStore(store)
    name = name or request.name
    started = time.monotonic()
    here = this_process(config, base)
    try:
        with disk_errors(store.root):
            store.check_name(name)
        here.wait_for_everyone()  # a process that starts late must not find the adapter of one that is done
        with ExitStack() as until_the_end:
            return _forget(
                request,
                base,
                config,
                name,
                store,
                heldout or [],
                idk_file,
                resume,
                progress if here.is_main_process else Progress(),
                started,
                here,
                tau,
                lambda loaded: until_the_end.enter_context(frozen_adapters(loaded, on_top_of, store, continue_from)),
            )
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise NotEnoughMemory(
            "There is not enough memory for this run: lower --micro-batch-tokens, shorten "
            "--max-length, or use --precision nf4."
        ) from error
    finally:
        progress.close()


def _forget(
    request, base, config, name, store, heldout, idk_file, resume, progress, started, here, tau, take_ground
) -> ForgetResult:
    progress.stage("Loading the base")
    if not isinstance(base, LoadedBase):
        device = str(here.device) if here.use_distributed else config.device
        base = load_base(base, config.precision, device, trust_remote_code=config.trust_remote_code)
    check_optimizer(config)
    ground: FrozenAdapters = take_ground(base)
    if config.orthogonal and not ground.names:
        raise SettingError("There is nothing to be orthogonal to: name the adapters beneath with --on-top-of.")
    with adapted(base.model, config, ground) as student:  # what doesn't fit is refused now, not after minutes
        if config.orthogonal:
            KeepOrthogonal(student, ground.names)
    set_seed(config.seed)
    model, tokenizer, pad_id = base.model, base.tokenizer, base.tokenizer.pad_token_id
    layers = config.layers(number_of_layers(model))
    head = FrozenHead(model)
    begun = date_of_run(store, name) if resume else None
    config = replace(config, template_date=pinned_date(tokenizer, config.template_date or begun))
    encoder = encoder_for(tokenizer, model.config, RowFormat.of(config))
    for note in encoder.notes():
        progress.note(note)
    objectives = build_objectives(config, base)
    if "retain" in objectives and not request.retain:
        raise SettingError("The request has nothing to keep: give it retain rows, or say --retain-loss none.")
    refuses = any("idk" in objective.needs for objective in objectives.values())
    idk = refusals(idk_file) if refuses else []
    halves = encode_halves(request, encoder, objectives, idk, config.seed)
    forget_rows = halves["forget"].views.get("answer") or encoder.encode_all(request.forget, "forget row")
    note_cut_answers(halves, encoder.max_length, progress)

    record = RunRecord(
        config=config,
        request=request,
        base=base,
        layers=layers,
        on_top_of=ground.on_top_of,
        continued=ground.began_with(),
    )
    record.count(halves)
    sets = {
        "forget": sample(request.forget, config.eval_rows),
        "retain": sample(request.retain, config.eval_rows),
        "heldout": heldout[: config.eval_rows],
    }
    before = score_sets(model, head, tokenizer, encoder, sets, "before", progress, here)
    if note := sum((scores.endings for scores in before.values()), Endings()).note("The base"):
        progress.note(note)

    ground.switch(on=config.teacher == "stack")
    if objectives["forget"].uses_teacher():
        record.tau = tau or choose_tau(config, request, forget_rows, model, head, tokenizer, layers, progress)
    speaking = fluency_masks(forget_rows, request.forget, tokenizer) if record.tau and config.keep_speaking else None
    record.fingerprint = fingerprint(base, progress)
    entry = find_frozen_layers(model, ground.lowest(config.first_adapted(number_of_layers(model))))
    higher = find_frozen_layers_above(entry, model, layers) if record.tau else None
    for half, objective in objectives.items():
        mine = speaking if half == "forget" else None
        if work := passes_needed(halves[half], objective, entry, mine is not None):
            progress.stage(f"Teacher and base on the {half} set", work)
            compute_references(
                halves[half],
                objective,
                model,
                head,
                pad_id,
                record.tau and record.tau.tau,
                layers,
                mine,
                progress.advance,
                entry,
                higher,
            )
    ground.switch(on=True)

    with run_lock(store.root / RUNS, name, here), adapted(model, config, ground) as student:
        folder = run_folder(store, name, record, idk, resume, here, ground)
        record.count_parameters(student)
        first, last = phases(config, forget_rows, request.forget, here.num_processes) if speaking else (config, None)

        def train_part(
            part: ForgetConfig, to: Path, seed: int, stage: str, own_of: Mapping[int, int] | None = None
        ) -> dict[str, float]:
            pairs = ForgetRetainPairs(
                len(halves["forget"]), len(halves.get("retain", ())), part.retain_per_forget, seed
            )
            collator = Collator(
                halves,
                needs_of(objectives),
                pad_id,
                own_of,
                part.micro_batch_tokens or tokens_of_training(base.device),
                packing_of(model),
            )
            arguments = training_arguments(part, to, base.device, base.compute_dtype, checkpoints=True)
            with disk_errors(store.root), entry.replayed() if entry is not None else nullcontext():
                figures = train(
                    Student(student, part.gradient_checkpointing, entry),
                    objectives,
                    head,
                    pairs,
                    collator,
                    part,
                    arguments,
                    progress,
                    resume,
                    stage,
                    callbacks,
                )
            check_finite(student)
            student.eval()
            return figures

        try:
            callbacks = [KeepOrthogonal(student, ground.names)] if config.orthogonal else []
            record.training = train_part(first, folder, config.seed, "Training")
            if last is not None:
                own = answer_on_policy(student, forget_rows, request.forget, encoder, tokenizer, progress, here)
                if own.of:
                    halves["own"], objectives["own"] = own.rows, OnPolicyKL()
                    with ground.reference(student, config.teacher):
                        compute_references(
                            own.rows, objectives["own"], model, head, pad_id, speaking=own.speaking, entry=entry
                        )
                record.train_again(
                    train_part(
                        last,
                        folder / LAST_PART,
                        config.seed + 1,
                        "Training, its own answers too" if own.of else "Training, its last part",
                        own.of,
                    )
                )
        except BaseException as error:
            # the same run would fail the same way again (but for want of memory, with less at a time), and without a
            # checkpoint there is nothing to resume
            hopeless = isinstance(error, TrainingError) and not isinstance(error, NotEnoughMemory)
            if here.is_main_process and (hopeless or last_checkpoint(folder) is None):
                remove_run(folder)
            raise
        after = score_sets(student, head, tokenizer, encoder, sets, "after", progress, here)

        record.before = {k: v for s, f in before.items() for k, v in f.summary(s).items()}
        record.after = {k: v for s, f in after.items() for k, v in f.summary(s).items()}
        record.seconds, record.peak_memory = time.monotonic() - started, peak_memory(base.device)
        here.wait_for_everyone()
        if here.is_main_process:
            progress.stage("Writing the adapter")
            with store.stage(name) as staging:
                write_adapter(student, staging, name, record)
            remove_run(folder)
        here.wait_for_everyone()
    return ForgetResult(
        name,
        store.root / name,
        record.before,
        record.after,
        {s: (before[s], after[s]) for s in before},
        record,
        here.is_main_process,
    )


def choose_tau(
    config: ForgetConfig,
    request: ForgetRequest,
    rows: list[Encoded],
    model,
    head,
    tokenizer,
    layers,
    progress: Progress,
) -> calibration.TauChoice:
    if config.tau != "auto":
        return calibration.TauChoice(float(config.tau), [], "given by the user")
    progress.stage("Choosing tau")
    classes = [token_classes(row, request.forget[row.example], tokenizer) for row in rows]
    gone = calibration.FACTS_GONE if config.keep_speaking else calibration.FACTS_GONE_ALONE
    choice = calibration.choose_tau(
        model,
        head,
        rows,
        classes,
        tokenizer.pad_token_id,
        layers,
        lambda point: progress.advance(1, tau=point.tau, facts=point.factual_rise),
        gone,
    )
    progress.note(choice.reason)
    return broadcast_object_list([choice])[0]  # one teacher, should processes round differently
