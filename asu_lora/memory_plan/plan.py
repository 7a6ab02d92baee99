"""The memory of a forget run, phase by phase and part by part, before anything heavy is loaded.

Weights, adapter, optimizer and caches are counted from shapes; what a forward or a training step holds is found by
running the very code of the run on the meta device (:mod:`asu_lora.memory_plan.meta_simulation`), on the widest batch
that the request's own rows will make. docs/memory.md has the arithmetic.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel

from asu_lora.batches.collator import Collator
from asu_lora.batches.forget_retain_pairs import Pair
from asu_lora.batches.forward_passes import forward_passes
from asu_lora.batches.packing import Packing
from asu_lora.batches.token_budget import tokens_of_reading, tokens_of_training
from asu_lora.config import ForgetConfig
from asu_lora.data.encoding import Encoded
from asu_lora.losses import Loss, needs_of
from asu_lora.memory_plan.byte_counts import basis_bytes, nf4_bytes, optimizer_bytes, quantised_weights, weight_bytes
from asu_lora.memory_plan.meta_simulation import LiveBytes, kernels, of_shapes_alone, on_meta
from asu_lora.memory_plan.overheads import machine_memory
from asu_lora.memory_plan.planned_run import PlannedRun
from asu_lora.memory_plan.rounding import rounding_parts
from asu_lora.models.decoder import answer_hidden, base_model, decoder_of, number_of_layers, text_config
from asu_lora.models.frozen_layers import FrozenLayers, find_frozen_layers
from asu_lora.models.generation import answer_rooms, batches
from asu_lora.models.output_head import FrozenHead
from asu_lora.models.packing_trial import packing_of
from asu_lora.teacher.fluency import MOST_RULED_OUT
from asu_lora.training.new_adapter import adapted
from asu_lora.training.step_losses import losses
from asu_lora.training.student import Student
from asu_lora.training.trainer import layer_of, pairs_of

EPOCHS_LOOKED_AT = 10


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
    quantised = quantised_weights(run.model) if (run.precision or config.precision) in ("nf4", "fp4") else {}
    machine = machine_memory(run.device)
    loading, fixed = fixed_parts(run, quantised)
    phases = {"loading": loading}
    with kernels(quantised), _live(run):
        packing = packing_of(run.model, run.device)
    if config.eval_rows and run.evaluated:
        phases["evaluating"] = fixed | _evaluating_parts(run, quantised, packing)
    with kernels(quantised), _live(run):
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
    loading = machine.loading(run.checkpoint, unquantised, whole, shared=run.compute.itemsize == 2)
    fixed = {"libraries": machine.libraries, "weights": weights, "left of loading": loading.left}
    kept = {"kept by the allocator": machine.kept} if machine.kept else {}
    return fixed | {"left of loading": loading.peak}, fixed | kept


def _evaluating_parts(run: PlannedRun, quantised: dict[int, torch.Tensor], packing: Packing | None) -> dict[str, int]:
    """Bytes by part of the fuller of reading the true answers and writing the longest ones."""
    machine = machine_memory(run.device)
    reading = _reading(run, quantised, run.evaluated, packing)
    states = max(sum(len(i.answer_ids) for i in items) for items in run.evaluated) * _state_bytes(run)
    cache, others, logits = _answering(run, quantised)
    return max(
        {"activations": machine.live(reading), "cache": states},
        {"activations": machine.live(others), "logits": machine.live(logits), "cache": cache},
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
    live = _step(run, config, student, quantised, entry, packing)
    adapter = sum(p.numel() * p.element_size() for p in trainable)
    return {
        "adapter": adapter,
        "gradients": adapter,
        "optimizer": optimizer_bytes(trainable, config, run.device),
        "activations": machine.live(live[0]),
        "logits": machine.live(live[1]),
        "attacker": 2 * adapter if config.attacker_lr else 0,  # how far it has come, and the weights as they were
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


def widest_micro_batch(run: PlannedRun, config: ForgetConfig, packing: Packing | None = None) -> dict[str, Any]:
    """The collated micro-batch with the most tokens, padding included, of the first epochs' draws."""
    forget = len(run.sets["forget"])
    pairs = pairs_of(run.sets, config, config.seed)
    collator = Collator(
        {name: each.rows for name, each in run.sets.items()},
        needs_of(_losses(run)),
        0,
        config.micro_batch_tokens or tokens_of_training(run.device),
        packing,
    )
    widest: tuple[list[Pair], int] = ([], 0)
    most = 0
    for epoch in range(min(math.ceil(config.epochs), EPOCHS_LOOKED_AT)):
        pairs.set_epoch(epoch)
        order = torch.randperm(forget, generator=torch.Generator().manual_seed(config.seed + epoch)).tolist()
        for start in range(0, forget, config.batch_size):
            batch = [pairs[index] for index in order[start : start + config.batch_size]]
            rows = collator.rows(batch)
            tokens = [collator.tokens([rows[i] for i in part]) for part in collator.parts(rows)]
            if max(tokens) > most:
                widest, most = (batch, tokens.index(max(tokens))), max(tokens)
    batch, part = widest
    return collator(batch)["micro_batches"][part]


def _step(
    run: PlannedRun,
    config: ForgetConfig,
    student: PeftModel,
    quantised: dict[int, torch.Tensor],
    entry: FrozenLayers | None,
    packing: Packing | None,
) -> tuple[int, int]:
    """Bytes of activations and of logits at the fullest moment of a training step."""
    trainable = [p for p in student.parameters() if p.requires_grad]
    batch = on_meta(widest_micro_batch(run, config, packing))
    module = Student(student, config.gradient_checkpointing, entry, layer_of(_losses(run)))
    module.train()
    for parameter in trainable:
        parameter.grad = torch.empty_like(parameter)
    live = _live(run)
    live.ignore(p.grad for p in trainable)
    with kernels(quantised), live, torch.enable_grad(), entry.replayed() if entry else nullcontext():
        parts = losses(module(batch["passes"]), batch, _losses(run), FrozenHead(run.model, run.device))
        torch.autograd.backward(list(parts.values()))
    return live.peak


@torch.no_grad()
def _reading(
    run: PlannedRun, quantised: dict[int, torch.Tensor], sets: Sequence[Sequence[Encoded]], packing: Packing | None
) -> int:
    """Bytes of activations of the widest forward pass without gradients over these rows."""
    most = tokens_of_reading(run.device)
    passes = [batch for items in sets for _, batch in forward_passes(items, 0, most, packing=packing)]
    widest = on_meta(max(passes, key=lambda batch: batch["input_ids"].numel()))
    live = _live(run)
    with kernels(quantised), live:
        answer_hidden(decoder_of(run.model), widest)
    return live.peak[0]


@torch.no_grad()
def _answering(run: PlannedRun, quantised: dict[int, torch.Tensor]) -> tuple[int, int, int]:
    """Bytes of keys and values at the end of the longest answers, of activations, of logits."""
    rows, width, room = _fullest(run)
    ids = torch.empty(rows, width, dtype=torch.long, device="meta")
    live = _live(run)
    with kernels(quantised), live:
        out = run.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, logits_to_keep=1)
        held = live.live["others"]
        grown = held * (width + room) // width
        del out
    return grown, live.peak[0] - held, rows * live.vocabulary * (run.compute.itemsize + 8)


def _fullest(run: PlannedRun) -> tuple[int, int, int]:
    """Rows, longest prompt and longest answer of the batch of answers with the most tokens to hold, over all sets."""
    lengths, rooms = list[int](), list[int]()
    for items in run.evaluated:
        lengths += (len(item.prompt_ids) for item in items)
        rooms += answer_rooms(items, [item.prompt_ids for item in items])
    most = dict(sorted(zip(lengths, rooms, strict=True)))
    found = batches(run.model, lengths, most.__getitem__)
    shapes = [(len(rows), lengths[rows[0]], max(rooms[row] for row in rows)) for rows in found]
    return max(shapes, key=lambda s: s[0] * (s[1] + s[2]), default=(1, 1, 1))


def _live(run: PlannedRun) -> LiveBytes:
    live = LiveBytes(base_model(run.model).get_output_embeddings().weight.shape[0])
    live.ignore([*run.model.parameters(), *run.model.buffers()])
    return live


def _items(run: PlannedRun) -> list[Encoded]:
    return [item for each in run.sets.values() for items in each.rows.views.values() for item in items]


def _losses(run: PlannedRun) -> dict[str, Loss]:
    return {name: each.loss for name, each in run.sets.items()}


def _hidden(run: PlannedRun) -> int:
    return text_config(run.model).hidden_size


def _state_bytes(run: PlannedRun) -> int:
    """Bytes of one token's hidden state."""
    return _hidden(run) * run.compute.itemsize
