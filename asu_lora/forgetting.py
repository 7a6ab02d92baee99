"""One forget request in, one LoRA adapter out: the main job, from top to bottom.

request -> encoded rows -> figures before -> tau -> targets of the frozen base -> training -> figures after ->
adapter folder, written beside the store and renamed into it.

Under ``accelerate launch`` every process runs all of this: they share the training steps and the questions that
are measured, and the first of them alone writes and tells.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterable
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from transformers import set_seed

from asu_lora import calibration
from asu_lora.adapters.staging import disk_errors
from asu_lora.adapters.store import AdapterStore
from asu_lora.collate import Collator
from asu_lora.data.encoding import Encoded, Encoder, special_ids
from asu_lora.data.examples import Example
from asu_lora.data.pairs import ForgetRetainPairs
from asu_lora.data.refusals import refusals
from asu_lora.data.request import ForgetRequest
from asu_lora.entry import find_entry
from asu_lora.errors import SettingError, TrainingError
from asu_lora.evaluation.figures import SetFigures, measure, sample
from asu_lora.evaluation.token_classes import token_classes
from asu_lora.ground import Ground, standing_on
from asu_lora.head import FrozenHead
from asu_lora.loading import LoadedBase, choose_device, load_base
from asu_lora.memory import out_of_memory, peak_memory
from asu_lora.objectives import Objective, forget_objective, retain_objective
from asu_lora.objectives.asu import ASU
from asu_lora.objectives.asu_idk import ASUWithIDK
from asu_lora.only_run import only_run
from asu_lora.progress import Progress
from asu_lora.record import RunRecord, write_adapter
from asu_lora.rows import Rows, compute_references, passes_needed
from asu_lora.settings import ForgetConfig
from asu_lora.smoothing import number_of_layers
from asu_lora.speaking import keep_speaking
from asu_lora.student import Student, adapted
from asu_lora.training import check_optimizer, last_checkpoint, train, training_arguments

RUNS = ".runs"  # checkpoints of unfinished runs, beside the adapters of the store


@dataclass
class ForgetResult:
    """What a run left behind.

    Attributes:
        name, path: the adapter in the store.
        before, after: figures (see :meth:`asu_lora.evaluation.figures.SetFigures.summary`).
        sets: the answers behind the figures, ``{"forget": (before, after), ...}``; in memory only.
        record: everything the manifest was written from.
        main_process: whether this is the process that tells a person, of those of an ``accelerate launch``.
    """

    name: str
    path: Path
    before: dict[str, float]
    after: dict[str, float]
    sets: dict[str, tuple[SetFigures, SetFigures]]
    record: RunRecord
    main_process: bool = True


def forget(request: ForgetRequest, base: str | LoadedBase = "smollm2-135m", config: ForgetConfig | None = None,
           name: str | None = None, store: str | Path | AdapterStore = "adapters", heldout: list[Example] | None = None,
           idk_file: str | Path | None = None, resume: bool = False, progress: Progress | None = None,
           tau: calibration.TauChoice | None = None, on_top_of: Iterable[str | Path | tuple[str | Path, float]] = (),
           continue_from: str | Path | None = None) -> ForgetResult:
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
            return _forget(request, base, config, name, store, heldout or [], idk_file, resume,
                           progress if here.is_main_process else Progress(), started, here, tau,
                           lambda loaded: until_the_end.enter_context(
                               standing_on(loaded, on_top_of, store, continue_from)))
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise TrainingError("There is not enough memory for this run: lower --batch-size, shorten --max-length, or "
                            "use --precision nf4.") from error
    finally:
        progress.close()


def _forget(request, base, config, name, store, heldout, idk_file, resume, progress, started, here,
            tau, take_ground) -> ForgetResult:
    progress.stage("Loading the base")
    if not isinstance(base, LoadedBase):
        device = str(here.device) if here.use_distributed else config.device
        base = load_base(base, config.precision, device, trust_remote_code=config.trust_remote_code)
    check_optimizer(config)
    ground: Ground = take_ground(base)
    with adapted(base.model, config, ground):
        pass  # an adapter that doesn't fit is refused now, not after minutes of measuring
    set_seed(config.seed)
    model, tokenizer, pad_id = base.model, base.tokenizer, base.tokenizer.pad_token_id
    layers = config.layers(number_of_layers(model))
    head = FrozenHead(model)
    encoder = Encoder(tokenizer, config.max_length)
    objectives = build_objectives(config, base)
    if "retain" in objectives and not request.retain:
        raise SettingError("The request has nothing to keep: give it retain rows, or say --retain-loss none.")
    refuses = any("idk" in objective.needs for objective in objectives.values())
    idk = refusals(idk_file) if refuses else []
    halves = encode_halves(request, encoder, objectives, idk, config.seed)
    forget_rows = halves["forget"].views.get("answer") or encoder.encode_all(request.forget, "forget row")
    tell_about_cuts(halves, config.max_length, progress)

    record = RunRecord(config=config, request=request, base=base, layers=layers, on_top_of=ground.on_top_of,
                       continued=ground.began_with())
    record.count(halves)
    sets = {"forget": sample(request.forget, config.eval_rows), "retain": sample(request.retain, config.eval_rows),
            "heldout": heldout[: config.eval_rows]}
    before = measure_sets(model, head, tokenizer, encoder, sets, "before", progress, here)

    ground.switch(on=config.teacher == "stack")
    if objectives["forget"].uses_teacher():
        record.tau = tau or choose_tau(config, request, forget_rows, model, head, tokenizer, layers, progress)
    speaking = keep_speaking(forget_rows, request.forget, tokenizer) if record.tau and config.keep_speaking else None
    record.fingerprint = fingerprint(base, progress)
    entry = find_entry(model, ground.lowest(config.first_adapted(number_of_layers(model))))
    for half, objective in objectives.items():
        mine = speaking if half == "forget" else None
        if work := passes_needed(halves[half], objective, entry, mine is not None):
            progress.stage(f"Teacher and base on the {half} set", work)
            compute_references(halves[half], objective, model, head, pad_id, record.tau and record.tau.tau, layers,
                               mine, progress.advance, entry)
    ground.switch(on=True)

    with only_run(store.root / RUNS, name, here), adapted(model, config, ground) as student:
        folder = run_folder(store, name, record, idk, resume, here, ground)
        record.count_parameters(student)
        pairs = ForgetRetainPairs(len(halves["forget"]), len(halves.get("retain", ())), config.retain_per_forget,
                                  config.seed)
        arguments = training_arguments(config, folder, base.device, base.compute_dtype, checkpoints=True)
        try:
            with disk_errors(store.root), entry.above() if entry is not None else nullcontext():
                record.training = train(Student(student, config.gradient_checkpointing, entry), objectives, head,
                                        pairs, Collator(halves, objectives, pad_id), config, arguments, progress,
                                        resume)
            check_finite(student)
        except BaseException as error:
            # the same run would fail the same way again, and without a checkpoint there is nothing to resume
            if here.is_main_process and (isinstance(error, TrainingError) or last_checkpoint(folder) is None):
                remove_run(folder)
            raise
        student.eval()
        after = measure_sets(student, head, tokenizer, encoder, sets, "after", progress, here)

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
    return ForgetResult(name, store.root / name, record.before, record.after,
                        {s: (before[s], after[s]) for s in before}, record, here.is_main_process)


def this_process(config: ForgetConfig, base: str | LoadedBase) -> PartialState:
    """Which of the processes of an ``accelerate launch`` this is; else the only one."""
    device = base.device if isinstance(base, LoadedBase) else choose_device(config.device)
    return PartialState(cpu=device.type == "cpu")


def build_objectives(config: ForgetConfig, base: LoadedBase) -> dict[str, Objective]:
    """The loss of each half, with its parameters."""
    parameters: dict = {}
    if config.objective in (ASU.name, ASUWithIDK.name) and config.keep_speaking:
        parameters |= {"forbidden": torch.tensor(special_ids(base.tokenizer), device=base.device), "rule_out": True}
    if config.objective in ("npo", "dpo"):
        parameters["beta"] = config.beta
    found = {"forget": forget_objective(config.objective, **parameters)}
    retain = retain_objective(config.retain_loss, **({"beta": config.beta} if config.retain_loss == "ap" else {}))
    if retain is not None and config.retain_coeff > 0 and config.retain_per_forget > 0:
        found["retain"] = retain
    return found


def encode_halves(request: ForgetRequest, encoder: Encoder, objectives: dict[str, Objective], idk: list[str],
                  seed: int) -> dict[str, Rows]:
    """Encode the views that the objectives look at; each row's refusal is drawn once, by the seed."""
    generator = torch.Generator().manual_seed(seed)
    halves = {}
    for half, objective in objectives.items():
        examples = request.forget if half == "forget" else request.retain
        views: dict[str, list[Encoded]] = {}
        for view in objective.needs:
            if view == "idk":
                drawn = torch.randint(len(idk), (len(examples),), generator=generator).tolist()
                asked = [Example(e.prompt, idk[i], {}, e.row) for e, i in zip(examples, drawn, strict=True)]
                refuse_passages(asked)
                views[view] = encoder.encode_all(asked, f"{half} row")
            else:
                views[view] = encoder.encode_all(examples, f"{half} row")
        halves[half] = Rows(views)
    return halves


def refuse_passages(examples: list[Example]) -> None:
    if any(example.is_passage for example in examples):
        raise TrainingError('An "I don\'t know" answers a question, and this request has passages of plain text: use '
                            "another objective or retain loss, such as asu with kl.")


def tell_about_cuts(halves: dict[str, Rows], max_length: int, progress: Progress) -> None:
    for half, rows in halves.items():
        cut = sum(item.cut for item in rows.views.get("answer", []))
        if cut:
            progress.note(f"{cut} of {len(rows)} {half} answers are longer than --max-length {max_length} and were cut "
                          "off: what stands beyond it is not trained on.")


def measure_sets(model, head, tokenizer, encoder, sets, when: str, progress: Progress,
                 here: PartialState) -> dict[str, SetFigures]:
    """Figures of every set that has questions; each process measures its share of them."""
    found = {}
    for name, examples in sets.items():
        if examples:
            with here.split_between_processes(examples) as mine:
                progress.stage(f"Answers on the {name} set, {when}", sum(not e.is_passage for e in mine))
                part = measure(model, head, tokenizer, encoder, mine, progress)
            parts = gather_object([part])
            found[name] = SetFigures(*(sum(lists, []) for lists in zip(
                *((p.probability, p.rouge, p.answers) for p in parts), strict=True)))
    return found


def choose_tau(config: ForgetConfig, request: ForgetRequest, rows: list[Encoded], model, head, tokenizer, layers,
               progress: Progress) -> calibration.TauChoice:
    if config.tau != "auto":
        return calibration.TauChoice(float(config.tau), [], "given by the user")
    progress.stage("Choosing tau")
    classes = [token_classes(row, request.forget[row.example], tokenizer) for row in rows]
    choice = calibration.choose_tau(model, head, rows, classes, tokenizer.pad_token_id, layers,
                                    lambda point: progress.advance(1, tau=point.tau, facts=point.factual_rise))
    progress.note(choice.reason)
    return broadcast_object_list([choice])[0]  # one teacher, should processes round differently


def fingerprint(base: LoadedBase, progress: Progress) -> str:
    progress.stage("Reading the base's fingerprint")
    return base.source.fingerprint()


def check_finite(student: torch.nn.Module) -> None:
    for name, parameter in student.named_parameters():
        if parameter.requires_grad and not torch.isfinite(parameter).all():
            raise TrainingError(f"The adapter's {name} holds numbers that are not finite: lower --lr; nothing was "
                                "added to the store.")


def run_folder(store: AdapterStore, name: str, record: RunRecord, idk: list[str], resume: bool,
               here: PartialState, ground: Ground) -> Path:
    """The folder of this run's checkpoints; a resumed run must be the run that was interrupted.

    Raises:
        TrainingError: what was interrupted was another run.
        StoreError: the disk refuses.
    """
    folder = store.root / RUNS / name
    identity = json.dumps({"request": record.request.fingerprint(), "base": record.fingerprint,
                           "idk": hashlib.sha256(json.dumps(idk).encode()).hexdigest(),
                           "config": asdict(record.config), "precision": record.base.precision,
                           "processes": here.num_processes, "ground": ground.identity()}, sort_keys=True)
    kept = folder / "run.json"
    found = resume and kept.is_file()
    if found and kept.read_text() != identity:
        raise TrainingError(f"The interrupted run '{name}' was made with other settings, base or request, or on top of "
                            "other adapters: give the same ones, or leave --resume out to start anew.")
    here.wait_for_everyone()  # all have looked
    if not found and here.is_main_process:
        remove_run(folder)
        with disk_errors(store.root):
            folder.mkdir(parents=True, exist_ok=True)
            kept.write_text(identity)
    here.wait_for_everyone()
    return folder


def remove_run(folder: Path) -> None:
    """Remove a run's checkpoints; what a logger wrote beside them (``--report-to tensorboard``) stays."""
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)
    (folder / "run.json").unlink(missing_ok=True)
    with suppress(OSError):  # not empty, or gone
        folder.rmdir()
        folder.parent.rmdir()
