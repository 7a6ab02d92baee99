"""The memory of a forget run, phase by phase and part by part, before anything heavy is loaded.

Weights, adapter, optimizer and caches are counted from shapes; what a forward or a training step holds is found by
running the very code of the run on the meta device (:mod:`asu_lora.memory_plan.meta_simulation`), on the widest batch
that the request's own rows will make. docs/memory.md has the arithmetic.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import init_empty_weights
from torch.utils._pytree import tree_map
from transformers import AutoModelForCausalLM

from asu_lora.batches.collator import Collator
from asu_lora.batches.forget_retain_pairs import ForgetRetainPairs
from asu_lora.batches.forward_passes import forward_passes
from asu_lora.batches.packing import Packing
from asu_lora.batches.token_budget import tokens_of_reading, tokens_of_training
from asu_lora.config import ForgetConfig
from asu_lora.data.encoding import Encoded
from asu_lora.errors import BaseModelError, first_line
from asu_lora.losses import Loss, TrainingSet, needs_of
from asu_lora.memory_plan.byte_counts import nf4_bytes, optimizer_bytes, quantised_weights, weight_bytes
from asu_lora.memory_plan.meta_simulation import LiveBytes, kernels
from asu_lora.memory_plan.overheads import machine_memory
from asu_lora.models.decoder import answer_hidden, number_of_layers
from asu_lora.models.frozen_layers import FrozenLayers, find_frozen_layers
from asu_lora.models.generation import batches, enough_tokens
from asu_lora.models.output_head import FrozenHead
from asu_lora.models.packing_trial import packing_of
from asu_lora.teacher.fluency import MOST_RULED_OUT
from asu_lora.training.new_adapter import adapted
from asu_lora.training.student import Student
from asu_lora.training.trainer import losses

EPOCHS_LOOKED_AT = 10


@dataclass(frozen=True)
class MemoryPlan:
    """What a run will hold.

    Attributes:
        phases: for ``loading``, ``evaluating``, ``targets`` and ``training``, bytes by part.
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


@dataclass
class PlannedRun:
    """All that the memory of a run depends on, besides its settings.

    Attributes:
        model: the base on the meta device, in the compute type.
        device, compute: where it will run, and the type of its matrix products.
        sets: encoded rows without references, and their losses.
        evaluated: the rows that are measured before and after, one list a set.
        checkpoint: bytes of the checkpoint's files.
        notes: what a person should know of the rows, one sentence each.
        precision: what the weights are held in; the config's where it is left out.
    """

    model: torch.nn.Module
    device: torch.device
    compute: torch.dtype
    sets: dict[str, TrainingSet]
    evaluated: list[list[Encoded]] = field(default_factory=list)
    checkpoint: int = 0
    notes: list[str] = field(default_factory=list)
    precision: str | None = None


def meta_model(model_config, compute: torch.dtype, trust_remote_code: bool = False) -> torch.nn.Module:
    """A base of shapes alone, frozen, in eval mode.

    Raises:
        BaseModelError: its config makes no sense.
    """
    try:
        with init_empty_weights():
            model = AutoModelForCausalLM.from_config(model_config, dtype=compute, trust_remote_code=trust_remote_code)
        model.tie_weights()  # every parameter was made anew on the meta device
    except Exception as error:  # a model's own code raises errors of every kind
        raise BaseModelError(f"The base can't be built from its config: {first_line(error)}") from error
    return model.requires_grad_(False).eval()


def plan_memory(run: PlannedRun, config: ForgetConfig) -> MemoryPlan:
    """Plan the memory of a run (adapters it stands on, ``--on-top-of``, are not counted)."""
    machine = machine_memory(run.device)
    quantised = quantised_weights(run.model) if (run.precision or config.precision) in ("nf4", "fp4") else {}
    weights = weight_bytes(run.model, quantised)
    state = _hidden(run) * run.compute.itemsize
    unquantised = sum(w.numel() for w in quantised.values()) * run.compute.itemsize
    whole = weights - sum(nf4_bytes(w.numel()) for w in quantised.values())
    # checkpoints are in 16 bits nearly all
    loading = machine.loading(run.checkpoint, unquantised, whole, shared=run.compute.itemsize == 2)
    fixed = {"libraries": machine.libraries, "weights": weights, "left of loading": loading.left}
    phases = {"loading": fixed | {"left of loading": loading.peak}}
    fixed |= {"kept by the allocator": machine.kept} if machine.kept else {}
    with kernels(quantised), _live(run):
        packing = packing_of(run.model, run.device)
    reading = _reading(run, quantised, [_items(run)], packing)
    if config.eval_rows and run.evaluated:
        evaluating = _reading(run, quantised, run.evaluated, packing)
        states = max(sum(len(i.answer_ids) for i in items) for items in run.evaluated) * state
        cache, others, logits = _answering(run, quantised)
        phases["evaluating"] = fixed | max(
            (
                {"activations": machine.live(evaluating), "cache": states},
                {"activations": machine.live(others), "logits": machine.live(logits), "cache": cache},
            ),
            key=lambda parts: sum(parts.values()),
        )
    entry = planned_entry(run, config, quantised)
    kept = {"cache": fill_cache(run, entry)}
    # beside the teacher's states stand the base's, until what tells no fact has been taken from them
    forget_rows = run.sets["forget"].rows.views.get("answer", ())
    again = sum(len(i.answer_ids) for i in forget_rows) * state
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
        again += sum(map(len, forget_rows)) * state
    phases["targets"] = fixed | {"activations": machine.live(reading), "cache": kept["cache"] + again}
    if run.device.type != "cpu":
        kept = {}  # references and entries wait in the host's memory; a batch brings its own along
        phases["targets"]["cache"] = max(again, max(len(i) for i in _items(run)) * state)
    with adapted(run.model, config) as student:
        trainable = [p for p in student.parameters() if p.requires_grad]
        others, logits = _step(run, config, student, trainable, quantised, entry, packing)
        adapter = sum(p.numel() * p.element_size() for p in trainable)
        phases["training"] = (
            fixed
            | kept
            | {
                "adapter": adapter,
                "gradients": adapter,
                "optimizer": optimizer_bytes(trainable, config, run.device),
                "activations": machine.live(others),
                "logits": machine.live(logits),
            }
        )
    return MemoryPlan(phases)


def planned_entry(run: PlannedRun, config: ForgetConfig, quantised: dict[int, torch.Tensor]) -> FrozenLayers | None:
    """Where the layers begin that training runs; None where all run (see :mod:`asu_lora.models.frozen_layers`)."""
    with kernels(quantised), _live(run):
        return find_frozen_layers(run.model, config.first_adapted(number_of_layers(run.model)))


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
    pairs = ForgetRetainPairs(
        forget, len(run.sets.get("retain", ())), config.retain_per_forget, config.seed, config.retain_dose
    )
    collator = Collator(
        {name: each.rows for name, each in run.sets.items()},
        needs_of(_losses(run)),
        0,
        config.micro_batch_tokens or tokens_of_training(run.device),
        packing,
    )
    widest, most = (), 0
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


def _step(run, config, student, trainable, quantised, entry, packing) -> tuple[int, int]:
    """Bytes of activations and of logits at the fullest moment of a training step."""
    batch = _on_meta(widest_micro_batch(run, config, packing))
    module = Student(student, config.gradient_checkpointing, entry)
    module.train()
    for parameter in trainable:
        parameter.grad = torch.empty_like(parameter)
    live = _live(run)
    live.ignore(p.grad for p in trainable)
    with kernels(quantised), live, torch.enable_grad(), entry.replayed() if entry else nullcontext():
        parts = losses(module(batch["passes"]), batch, _losses(run), FrozenHead(run.model, run.device))
        torch.autograd.backward(sum(parts.values()))
    return live.peak


@torch.no_grad()
def _reading(run, quantised, sets: Sequence[Sequence[Encoded]], packing: Packing | None) -> int:
    """Bytes of activations of the widest forward pass without gradients over these rows."""
    most = tokens_of_reading(run.device)
    passes = [batch for items in sets for _, batch in forward_passes(items, 0, most, packing=packing)]
    widest = _on_meta(max(passes, key=lambda batch: batch["input_ids"].numel()))
    live = _live(run)
    with kernels(quantised), live:
        answer_hidden(run.model.get_decoder(), widest)
    return live.peak[0]


@torch.no_grad()
def _answering(run, quantised) -> tuple[int, int, int]:
    """Bytes of keys and values at the end of the longest answers, of activations, of logits."""
    found = (0, 0, 0)
    for items in run.evaluated:
        prompts = [item.prompt_ids for item in items]
        total = enough_tokens(items, prompts)
        rows, width = _fullest(run.model, list(map(len, prompts)), total)
        ids = torch.empty(rows, width, dtype=torch.long, device="meta")
        live = _live(run)
        with kernels(quantised), live:
            out = run.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, logits_to_keep=1)
            held = live.live["others"]
            grown = held * max(total, width) // width
            del out
        logits = rows * live.vocabulary * (run.compute.itemsize + 8)
        found = max(found, (grown, live.peak[0] - held, logits), key=sum)
    return found


def _fullest(model: torch.nn.Module, lengths: list[int], total: int) -> tuple[int, int]:
    """Rows and longest prompt of the batch of answers with the most tokens to hold."""
    found = batches(model, lengths, lambda tokens: max(16, total - tokens))
    return max(((len(batch), lengths[batch[0]]) for batch in found), key=lambda b: b[0] * max(total, b[1] + 16))


def _live(run: PlannedRun) -> LiveBytes:
    live = LiveBytes(run.model.get_output_embeddings().weight.shape[0])
    live.ignore([*run.model.parameters(), *run.model.buffers()])
    return live


def _on_meta(batch):
    return tree_map(lambda x: x.to("meta") if isinstance(x, torch.Tensor) else x, batch)


def _items(run: PlannedRun) -> list[Encoded]:
    return [item for each in run.sets.values() for items in each.rows.views.values() for item in items]


def _losses(run: PlannedRun) -> dict[str, Loss]:
    return {name: each.loss for name, each in run.sets.items()}


def _hidden(run: PlannedRun) -> int:
    return run.model.config.get_text_config().hidden_size
