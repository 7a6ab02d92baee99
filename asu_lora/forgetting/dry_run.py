"""What a run would do, before anything heavy is loaded: ``asu-lora forget --dry-run`` and ``--fit``.

Shapes come from the config, on the meta device; tokens from the tokenizer. No weight is read.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from asu_lora.adapters.store import AdapterStore
from asu_lora.bases.source import resolve_base
from asu_lora.batches.collator import ON_POLICY
from asu_lora.config import ForgetConfig
from asu_lora.data.chat_template import pinned_date, undated_note
from asu_lora.data.column_notes import columns_note
from asu_lora.data.encoding import Encoded, Encoder, encoder_for
from asu_lora.data.examples import Example
from asu_lora.data.function_words import languages_note
from asu_lora.data.request import ForgetRequest
from asu_lora.data.row_format import BaseLimits, RowFormat
from asu_lora.data.sampling import sample
from asu_lora.data.training_rows import TrainingRows
from asu_lora.files import disk_errors, refuse_read_only
from asu_lora.forgetting.alternates import own_alternates
from asu_lora.forgetting.prepare import build_losses, refusals_for, refuse_attacker, training_sets
from asu_lora.forgetting.trial_copy import refuse_untried
from asu_lora.hardware.device import choose_device
from asu_lora.hardware.memory import free_memory
from asu_lora.losses import FORGET, NO_RETAIN, TrainingSet, own_settings
from asu_lora.losses.on_policy import OnPolicyKL
from asu_lora.memory_plan.fit import fit, parse_size
from asu_lora.memory_plan.plan import MemoryPlan
from asu_lora.memory_plan.planned_run import PlannedRun, meta_model
from asu_lora.memory_plan.weights_alone import plan_what_can_be
from asu_lora.models.adapter_stack import adapter_folders, check_fit
from asu_lora.models.decoder import base_model, number_of_layers
from asu_lora.models.frozen_adapters import check_ground
from asu_lora.models.loading import load_tokenizer
from asu_lora.models.prepared_base import prepare_base
from asu_lora.models.weight_map import refuse_incomplete
from asu_lora.training.arguments import check_optimizer
from asu_lora.training.new_adapter import adapted, rank_note
from asu_lora.training.orthogonal import refuse_alone
from asu_lora.training.phases import phases
from asu_lora.training.target_modules import note_left_out


class ToldPlan(dict[str, str]):
    """What a run would do, as sentences for a person.

    Attributes:
        fields: the same as values, for scripts.
    """

    def __init__(self, told: dict[str, str], fields: dict[str, Any]):
        super().__init__(told)
        self.fields = fields


def plan_run(
    request: ForgetRequest,
    base: str,
    config: ForgetConfig,
    *,
    name: str,
    store: str | Path,
    on_top_of: Iterable[str] = (),
    heldout: Sequence[Example] = (),
    idk_file: str | Path | None = None,
) -> tuple[ToldPlan, MemoryPlan]:
    """Check everything that can be checked, and say what the run would do and what memory it would take.

    Raises:
        AsuLoraError: whatever the run itself would refuse before training.
    """
    check_optimizer(config, choose_device(config.device))
    with disk_errors(Path(store)):
        AdapterStore(store).check_name(name)
        refuse_read_only(AdapterStore(store).root)
    beneath = check_ground(resolve_base(base), on_top_of, store)
    refuse_alone(config, beneath)
    run = planned_run(request, base, config, heldout, idk_file)
    check_fit(run.model, adapter_folders(on_top_of, store))
    memory, unplanned = plan_what_can_be(run, config)
    notes = [*run.notes, *([unplanned] if unplanned else [])]
    layers = config.layers(number_of_layers(run.model))
    forget = run.sets["forget"].rows.own_answers
    retain = run.sets["retain"].rows.answers if "retain" in run.sets else []
    rows = config.batch_size * config.grad_accum
    beside = rows * config.retain_per_forget if retain else 0
    steps = math.ceil(math.ceil(len(forget) / rows) * config.epochs)
    told = {
        "adapter": f"{name}, in {store}",
        "base": f"{base} ({_architecture(run)}), {run.precision} on {run.device}, arithmetic in "
        f"{str(run.compute).removeprefix('torch.')}",
        **({"on top of": ", ".join(f"{below.name}:{below.weight:g}" for below in beneath)} if beneath else {}),
        "forget rows": f"{len(request.forget)} ({sum(map(len, forget))} tokens)",
        "retain rows": _retain_rows(request, sum(map(len, retain))),
        "answers cut off": str(sum(item.cut for item in (*forget, *retain))),
        "method": f"{config.objective} with {config.retain_loss}, {_numbers(config, layers)}",
        "steps": f"{'at most ' * config.stop_early}{steps}, each of {rows} forget and {beside} retain rows",
        **({"notes": " ".join(notes)} if notes else {}),
    }
    fields = {
        "name": name,
        "store": str(store),
        "base": base,
        "architecture": _architecture(run),
        "precision": run.precision,
        "device": str(run.device),
        "compute_dtype": str(run.compute).removeprefix("torch."),
        "on_top_of": [{"name": below.name, "weight": below.weight} for below in beneath],
        **_rows(request, forget, retain),
        **_set_to(config, layers),
        "steps": steps,
        "retain_rows_a_step": beside,
        "notes": notes,
    }
    return ToldPlan(told, fields), memory


def _architecture(run: PlannedRun) -> str:
    return (base_model(run.model).config.architectures or ["?"])[0]


def _retain_rows(request: ForgetRequest, tokens: int) -> str:
    if request.pool is None:
        source = "" if request.retain_source in ("file", "rows") else f", {request.retain_source}"
        return f"{len(request.retain)} ({tokens} tokens){source}"
    most, pool = len(request.pool.longest(request.forget)), len(request.pool.rows)
    return f"{most} of a pool of {pool}, chosen when the run begins (at most {tokens} tokens)"


def _numbers(config: ForgetConfig, layers: Sequence[int] | None) -> str:
    """What the method is set to: the losses' own numbers, the teacher where there is one, and the weights."""
    own = own_settings(config.objective, config.retain_loss, config.loss_settings)
    said = [f"{name} {value:g}" for each in own.values() for name, value in each.items()]
    if FORGET[config.objective].uses_teacher() or not said:
        said += [f"tau {config.tau}", f"layers {'all' if layers is None else config.smooth_layers}"]
    beside = "" if config.retain_loss == NO_RETAIN else f" and {config.retain_coeff:g}"
    return ", ".join([*said, f"weight {config.forget_coeff:g}{beside}"])


def _rows(request: ForgetRequest, forget: Sequence[Encoded], retain: Sequence[Encoded]) -> dict[str, Any]:
    """The rows as values."""
    pool = request.pool
    return {
        "forget_rows": len(request.forget),
        "forget_tokens": sum(map(len, forget)),
        "retain_rows": len(request.retain) if pool is None else len(pool.longest(request.forget)),
        "retain_tokens_at_most": sum(map(len, retain)),
        "retain_source": request.retain_source if pool is None else "pool",
        "retain_pool_rows": None if pool is None else len(pool.rows),
        "answers_cut_off": sum(item.cut for item in (*forget, *retain)),
    }


def _set_to(config: ForgetConfig, layers: Sequence[int] | None) -> dict[str, Any]:
    """The method as values; tau and layers of the teacher alone."""
    teacher = FORGET[config.objective].uses_teacher()
    return {
        "objective": config.objective,
        "retain_loss": config.retain_loss,
        "forget_coeff": config.forget_coeff,
        "retain_coeff": None if config.retain_loss == NO_RETAIN else config.retain_coeff,
        "tau": config.tau if teacher else None,
        "smoothed_layers": config.smooth_layers if teacher and layers is not None else None,
        "rank": config.rank,
        "lr": config.lr,
        "epochs": config.epochs,
        "may_stop_early": config.stop_early,
        "forget_rows_a_step": config.batch_size * config.grad_accum,
    }


def planned_run(
    request: ForgetRequest,
    base: str,
    config: ForgetConfig,
    heldout: Sequence[Example] = (),
    idk_file: str | Path | None = None,
) -> PlannedRun:
    """All that the memory of a run depends on.

    Raises:
        AsuLoraError: whatever the run itself would refuse before training.
    """
    prepared = prepare_base(base, config.precision, config.device, trust_remote_code=config.trust_remote_code)
    source, model_config = prepared.source, prepared.config
    tokenizer = load_tokenizer(source, config.trust_remote_code, BaseLimits.of(model_config).vocabulary)
    day = pinned_date(tokenizer, config.template_date)
    undated = undated_note(config.template_date, day)
    config = dataclasses.replace(config, template_date=day, phrasings=request.phrasings(config.phrasings))
    encoder = encoder_for(tokenizer, model_config, RowFormat.of(config))
    request, beyond = _with_longest(request, encoder)
    model = meta_model(model_config, prepared.compute_dtype, config.trust_remote_code)
    refuse_incomplete(model, prepared.infos, source.name)
    rank = rank_note(model, config)
    with adapted(model, config) as student:
        notes = [*encoder.notes(), languages_note(request.forget), note_left_out(student), rank, beyond, undated]
        notes.append(columns_note((*request.forget, *request.retain)))
        notes += [request.paraphrases_note(config.phrasings), request.heldout_note(heldout)]
    sets = _sets(request, encoder, config, idk_file, number_of_layers(model))
    heated = config.tau != 1 and any(each.loss.uses_teacher() for each in sets.values())
    smoothed = config.layers(number_of_layers(model)) if heated else []
    refuse_untried(model, model_config, smoothed, config.trust_remote_code)
    if phases(config, sets)[1]:
        sets[ON_POLICY] = _own_answers(sets["forget"].rows)
    asked = {"forget": request.forget, "retain": request.retain, "heldout": heldout}
    evaluated = [
        encoder.encode_all(sample(rows, config.eval_rows), f"{name} row") for name, rows in asked.items() if rows
    ]
    return PlannedRun(
        model,
        prepared.device,
        prepared.compute_dtype,
        sets,
        evaluated if config.eval_rows else [],
        sum(file.stat().st_size for file in {tensor.file for tensor in prepared.tensors.values()}),
        [note for note in notes if note],
        prepared.precision,
    )


def _sets(
    request: ForgetRequest, encoder: Encoder, config: ForgetConfig, idk_file: str | Path | None, layers: int
) -> dict[str, TrainingSet]:
    """The forget and the retain set; what the base will write in them is taken to be as long as the answers."""
    # the tokens that keep_speaking takes out of the teacher take no memory
    losses = build_losses(dataclasses.replace(config, keep_speaking=False), number_of_layers=layers)
    refuse_attacker(config, losses["forget"])
    others: list[str] = []
    if "alternate" in losses["forget"].needs:
        own = own_alternates(request.forget)
        others = [text or row.answer for text, row in zip(own, request.forget, strict=True)]
    openings = [[row] * (0 if row.is_passage else config.openings) for row in request.forget]
    return training_sets(request, encoder, losses, refusals_for(losses, idk_file), config, others, openings=openings)


def _own_answers(forget: TrainingRows) -> TrainingSet:
    """Upper bound of the student's own answers that loop: all do, and are as long as the true ones."""
    beside = {row: row for row in range(len(forget.answers))}
    return TrainingSet(OnPolicyKL(), TrainingRows({"answer": forget.answers}, beside=beside))


def _with_longest(request: ForgetRequest, encoder: Encoder) -> tuple[ForgetRequest, str | None]:
    """Of a pool the longest rows: no weight is read, so none is chosen, and these take the most memory."""
    if request.pool is None:
        return request, None
    pool, left_out = request.pool.trainable(encoder)
    return request.with_retain(pool.longest(request.forget)), left_out


def fit_run(
    request: ForgetRequest,
    base: str,
    config: ForgetConfig,
    budget: str,
    heldout: Sequence[Example] = (),
    idk_file: str | Path | None = None,
) -> tuple[ForgetConfig, MemoryPlan, int]:
    """The settings with which the run fits, its plan, and the budget in bytes.

    Args:
        budget: ``free``, what the device has free, or a size such as ``12GB``.

    Raises:
        AsuLoraError: nothing fits, or the run would be refused anyway.
    """
    given = None if budget == "free" else parse_size(budget)
    run = planned_run(request, base, config, heldout, idk_file)
    bytes_ = given if given is not None else free_memory(run.device)
    return *fit(run, config, bytes_), bytes_


def memory_summary(plan: MemoryPlan) -> dict[str, Any]:
    """The plan for ``--json``: all figures in bytes."""
    return {"peak_bytes": plan.peak, "peak_phase": plan.phase, "phases": plan.phases}
