"""What the fullest moment of a training step holds, by running one on the meta device."""

import math
from contextlib import nullcontext
from typing import Any

import torch
from peft import PeftModel

from asu_lora.batches.collator import Collator
from asu_lora.batches.forget_retain_pairs import Pair
from asu_lora.batches.packing import Packing
from asu_lora.batches.token_budget import tokens_of_training
from asu_lora.config import ForgetConfig
from asu_lora.losses import losses_of, needs_of
from asu_lora.memory_plan.meta_simulation import kernels, on_meta
from asu_lora.memory_plan.planned_run import PlannedRun, live_bytes
from asu_lora.models.frozen_layers import FrozenLayers
from asu_lora.models.output_head import FrozenHead
from asu_lora.training.step_losses import losses
from asu_lora.training.student import Student
from asu_lora.training.trainer import layer_of, pairs_of

EPOCHS_LOOKED_AT = 10


def widest_micro_batch(run: PlannedRun, config: ForgetConfig, packing: Packing | None = None) -> dict[str, Any]:
    """The collated micro-batch with the most tokens, padding included, of the first epochs' draws."""
    forget = len(run.sets["forget"])
    pairs = pairs_of(run.sets, config, config.seed)
    collator = Collator(
        {name: each.rows for name, each in run.sets.items()},
        needs_of(losses_of(run.sets)),
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


def step_parts(
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
    module = Student(student, config.gradient_checkpointing, entry, layer_of(losses_of(run.sets)))
    module.train()
    for parameter in trainable:
        parameter.grad = torch.empty_like(parameter)
    live = live_bytes(run)
    live.ignore(p.grad for p in trainable)
    with kernels(quantised), live, torch.enable_grad(), entry.replayed() if entry else nullcontext():
        parts = losses(module(batch["passes"]), batch, losses_of(run.sets), FrozenHead(run.model, run.device))
        torch.autograd.backward(list(parts.values()))
    return live.peak
