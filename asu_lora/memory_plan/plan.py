"""The memory of a forget run, phase by phase and part by part, before anything heavy is loaded.

Weights, adapter, optimizer and caches are counted from shapes; what a forward or a training step holds is found by
running the very code of the run on the meta device (:mod:`asu_lora.memory_plan.meta_simulation`), on the widest batch
that the request's own rows will make. docs/memory.md has the arithmetic.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel

from asu_lora.batches.forward_passes import forward_passes
from asu_lora.batches.packing import Packing
from asu_lora.batches.token_budget import tokens_of_reading
from asu_lora.config import ForgetConfig
from asu_lora.data.encoding import Encoded
from asu_lora.memory_plan.answering import answering_parts
from asu_lora.memory_plan.byte_counts import (
    basis_bytes,
    int8_saving,
    nf4_bytes,
    optimizer_bytes,
    quantised_of,
    quantised_weights,
    unpacked_bytes,
    weight_bytes,
)
from asu_lora.memory_plan.meta_simulation import kernels, of_shapes_alone, on_meta
from asu_lora.memory_plan.overheads import machine_memory
from asu_lora.memory_plan.planned_run import PlannedRun, live_bytes
from asu_lora.memory_plan.rounding import rounding_parts
from asu_lora.memory_plan.training_step import step_parts
from asu_lora.models.decoder import answer_hidden, decoder_and_layers, decoder_of, number_of_layers, text_config
from asu_lora.models.frozen_layers import FrozenLayers, find_frozen_layers
from asu_lora.models.packing_trial import packing_of
from asu_lora.models.unpacked_weights import SHARE, SHARE_OF_TRAINING
from asu_lora.teacher.fluency import MOST_RULED_OUT
from asu_lora.training.attacker import RANK
from asu_lora.training.new_adapter import adapted


@dataclass(frozen=True)
class MemoryPlan:
    """What a run will hold.

    Attributes:
        phases: ``loading``, ``evaluating``, ``targets``, ``training`` and perhaps ``rounding``, bytes by part.
    """

    phases: dict[str, dict[str, int]]

    @property
    def totals(self) -> dict[str, int]:
        return {phase: sum(parts.values()) for phase, parts in self.phases.items()}

    @property
    def phase(self) -> str:
        """The phase that takes the most."""
        return max(self.totals, key=self.totals.__getitem__)

    @property
    def peak(self) -> int:
        """The most memory held at once, bytes."""
        return max(self.totals.values())


@of_shapes_alone
def plan_memory(run: PlannedRun, config: ForgetConfig) -> MemoryPlan:
    """Plan the memory of a run (adapters it stands on, ``--on-top-of``, are not counted)."""
    quantised = quantised_of(run, config)
    machine = machine_memory(run.device)
    loading, fixed = fixed_parts(run, quantised)
    phases = {"loading": loading}
    with kernels(quantised), live_bytes(run):
        packing = packing_of(run.model, run.device)
    if config.eval_rows and run.evaluated:
        phases["evaluating"] = fixed | _evaluating_parts(run, quantised, packing)
    with kernels(quantised), live_bytes(run):
        entry = find_frozen_layers(run.model, config.first_adapted(number_of_layers(run.model)))
    cache, again = fill_cache(run, entry), _targets_again(run, config, entry)
    reading = machine.live(_reading(run, quantised, [_items(run)], packing))
    kept = {"cache": cache}
    phases["targets"] = fixed | {"activations": reading, "cache": cache + again}
    if run.device.type != "cpu":
        kept = {}  # references and entries wait in the host's memory; a batch brings its own along
        longest = max(len(i) for i in _items(run)) * _state_bytes(run)
        phases["targets"] = fixed | {"activations": reading, "cache": max(again, longest)}
    with adapted(run.model, config) as student:
        training = _training_parts(run, config, student, quantised, entry, packing)
        phases["training"] = fixed | kept | training
        if config.settle_rounded and "answer" in run.sets["forget"].rows.views:
            phases["rounding"] = fixed | kept | rounding_parts(student, training["adapter"], reading)
    return MemoryPlan(phases)


def fixed_parts(run: PlannedRun, quantised: dict[int, torch.Tensor]) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes by part while the base is loaded, and from then on."""
    machine, weights = machine_memory(run.device), weight_bytes(run.model, quantised)
    unquantised = sum(w.numel() for w in quantised.values()) * run.compute.itemsize
    whole = weights - sum(nf4_bytes(w.numel()) for w in quantised.values())
    # checkpoints are in 16 bits nearly all
    kept = {"kept by the allocator": machine.kept} if machine.kept else {}
    if run.precision == "int8":
        maps = quantised_weights(run.model).values()
        weights = whole = weights - int8_saving(maps)
        kept["a map made whole"] = max((w.numel() * w.element_size() for w in maps), default=0)  # in every product
    loading = machine.loading(run.checkpoint, unquantised, whole, shared=run.compute.itemsize == 2)
    fixed = {"libraries": machine.libraries, "weights": weights, "left of loading": loading.left}
    return fixed | {"left of loading": loading.peak}, fixed | kept


def _evaluating_parts(run: PlannedRun, quantised: dict[int, torch.Tensor], packing: Packing | None) -> dict[str, int]:
    """Bytes by part of the fuller of reading the true answers and writing the longest ones."""
    machine = machine_memory(run.device)
    reading = _reading(run, quantised, run.evaluated, packing)
    states = max(sum(len(i.answer_ids) for i in items) for items in run.evaluated) * _state_bytes(run)
    cache, others, logits = answering_parts(run, quantised)
    return max(
        {"activations": machine.live(reading), "cache": states},
        {
            "activations": machine.live(others),
            "logits": machine.live(logits),
            "cache": cache,
            "unpacked weights": unpacked_bytes([run.model], quantised, run, SHARE),
        },
        key=lambda parts: sum(parts.values()),
    )


def _targets_again(run: PlannedRun, config: ForgetConfig, entry: FrozenLayers | None) -> int:
    """Bytes that computing targets holds beside the cache."""
    # the base's states stand beside the teacher's until the anchors have been taken from them
    forget_rows = run.sets["forget"].rows.views.get("answer", ())
    again = sum(len(i.answer_ids) for i in forget_rows) * _state_bytes(run)
    # and what enters the lowest smoothed layer, until the teacher has gone on from there
    smoothed = config.layers(number_of_layers(run.model))
    if (
        entry is not None
        and config.keep_speaking
        and smoothed
        and min(smoothed) > entry.first
        and run.sets["forget"].loss.uses_teacher()
        and run.device.type == "cpu"
    ):
        again += sum(map(len, forget_rows)) * _state_bytes(run)
    return again


def _training_parts(
    run: PlannedRun,
    config: ForgetConfig,
    student: PeftModel,
    quantised: dict[int, torch.Tensor],
    entry: FrozenLayers | None,
    packing: Packing | None,
) -> dict[str, int]:
    """Bytes by part of the fullest moment of a training step, less what the run holds anyway."""
    machine = machine_memory(run.device)
    trainable = [p for p in student.parameters() if p.requires_grad]
    live = step_parts(run, config, student, quantised, entry, packing)
    adapter = sum(p.numel() * p.element_size() for p in trainable)
    above = decoder_and_layers(student)[1][entry.first if entry is not None else 0 :]
    return {
        "adapter": adapter,
        "gradients": adapter,
        "optimizer": optimizer_bytes(trainable, config, run.device),
        "activations": machine.live(live[0]),
        "logits": machine.live(live[1]),
        # its weights and gradients, and AdamW's two means
        "attacker": round(4 * adapter * RANK / config.rank) if config.attacker_lr else 0,
        "unpacked weights": unpacked_bytes(above, quantised, run, SHARE_OF_TRAINING),
        "kept directions": basis_bytes(student, config.keep_off if "retain" in run.sets else 0.0),
    }


def fill_cache(run: PlannedRun, entry: FrozenLayers | None) -> int:
    """Put the shapes of references and entries beside the rows, and say what they will take, bytes."""
    for each in run.sets.values():
        rows = each.rows
        rows.entries.clear()
        for view, wanted in each.loss.needs.items():
            items = rows.views[view]
            rows.references[view] = {
                name: [
                    torch.empty(len(item.answer_ids), device="meta")
                    if name == "base_logprob"
                    else torch.empty(len(item.answer_ids), MOST_RULED_OUT, dtype=torch.int32, device="meta")
                    if name == "ruled_out"
                    else torch.empty(len(item.answer_ids), _hidden(run), dtype=run.compute, device="meta")
                    for item in items
                ]
                for name in wanted
            }
            if entry is not None:
                rows.entries[view] = [
                    torch.empty(len(item), _hidden(run), dtype=run.compute, device="meta") for item in items
                ]
    return sum(each.rows.cache_bytes() for each in run.sets.values())


@torch.no_grad()
def _reading(
    run: PlannedRun, quantised: dict[int, torch.Tensor], sets: Sequence[Sequence[Encoded]], packing: Packing | None
) -> int:
    """Bytes of activations of the widest forward pass without gradients over these rows."""
    most = tokens_of_reading(run.device)
    passes = [batch for items in sets for _, batch in forward_passes(items, 0, most, packing=packing)]
    widest = on_meta(max(passes, key=lambda batch: batch["input_ids"].numel()))
    live = live_bytes(run)
    with kernels(quantised), live:
        answer_hidden(decoder_of(run.model), widest)
    return live.peak[0]


def _items(run: PlannedRun) -> list[Encoded]:
    return [item for each in run.sets.values() for items in each.rows.views.values() for item in items]


def _hidden(run: PlannedRun) -> int:
    return text_config(run.model).hidden_size


def _state_bytes(run: PlannedRun) -> int:
    """Bytes of one token's hidden state."""
    return _hidden(run) * run.compute.itemsize
