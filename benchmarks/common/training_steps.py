"""Training steps to be compared: ASU as this program does it, plain QLoRA, and the straightforward way.

What the benchmarks of time and memory share. All three train the same adapter on the same rows.
"""

import ctypes
import gc
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch.nn.functional import log_softmax
from torch.utils._pytree import tree_map

from asu_lora import ForgetConfig, ForgetRequest, attention_smoothing
from asu_lora.batches.collator import Collator
from asu_lora.batches.forward_passes import forward_passes
from asu_lora.batches.packing import Packing
from asu_lora.batches.token_budget import tokens_of_training
from asu_lora.cli.quiet import quiet_libraries
from asu_lora.data.chat_template import special_ids
from asu_lora.data.encoding import Encoded, Encoder
from asu_lora.data.reading import read_rows
from asu_lora.data.training_rows import TrainingRows
from asu_lora.forgetting.prepare import build_losses, training_sets
from asu_lora.hardware.memory import FreedMemory
from asu_lora.losses import Loss, losses_of, needs_of
from asu_lora.models.frozen_layers import find_frozen_layers, find_frozen_layers_above
from asu_lora.models.loading import load_base
from asu_lora.models.packing_trial import packing_of
from asu_lora.teacher.fluency import fluency_masks
from asu_lora.teacher.targets import compute_references
from asu_lora.teacher.teacher import Teacher
from asu_lora.training.new_adapter import add_adapter
from asu_lora.training.step_losses import losses
from asu_lora.training.student import Student

TAU = 3.0
PADDED = 500  # tokens: what the paper's code pads every row to


class Workload:
    """A base in memory, rows of a request, and one training step of each kind.

    Args:
        base: a checkpoint.
        precision: of the base.
        forget, retain: rows of each.
        config: further settings.
        device: where the base lies.
    """

    def __init__(
        self,
        base: str,
        tofu: Path,
        precision: str = "nf4",
        forget: int = 8,
        retain: int = 8,
        *,
        config: ForgetConfig | None = None,
        device: str = "cpu",
    ):
        quiet_libraries()
        self.config = replace(config or ForgetConfig(), precision=precision)
        self.base = load_base(base, precision, device)
        self.device = self.base.device
        self.loaded = settled_memory(self.device)
        self.model, self.pad_id = self.base.model, self.base.tokenizer.pad_token_id
        self.request = ForgetRequest.from_rows(
            plain(read_rows(tofu / "forget01.json")[:forget]), plain(read_rows(tofu / "retain_perturbed.json")[:retain])
        )
        self.encoder = Encoder(self.base.tokenizer, self.config.max_length)
        self.pairs = [(i, [i]) for i in range(min(forget, retain))]
        self.head = self.base.head
        losses = build_losses(self.config, special_ids(self.base.tokenizer), self.device)
        self.sets = training_sets(self.request, self.encoder, losses, [], self.config)
        self.layers = self.config.layers(self.base.number_of_layers)
        self.entry = self.higher = None

    @property
    def items(self) -> list[Encoded]:
        return [item for each in self.sets.values() for item in each.rows.answers]

    @property
    def losses(self) -> dict[str, Loss]:
        return losses_of(self.sets)

    @property
    def rows(self) -> dict[str, TrainingRows]:
        return {name: each.rows for name, each in self.sets.items()}

    def cache(self, keep_speaking: bool | None = None) -> None:
        """Compute entries and references; the first time, the entry to them is tried out too.

        Args:
            keep_speaking: what the config says by default; else the losses are built anew for it.
        """
        if keep_speaking not in (None, self.config.keep_speaking):
            self.config = replace(self.config, keep_speaking=keep_speaking)
            for name, loss in build_losses(self.config, special_ids(self.base.tokenizer), self.device).items():
                self.sets[name].loss = loss
        if self.entry is None:
            self.entry = find_frozen_layers(self.model, self.config.first_adapted(self.base.number_of_layers))
            self.higher = find_frozen_layers_above(self.entry, self.model, self.layers)
        forget = self.sets["forget"].rows
        masks = fluency_masks(forget, self.base.tokenizer) if self.config.keep_speaking else None
        teacher = Teacher(TAU, self.layers, masks, self.higher)
        for each in self.sets.values():
            compute_references(self.base, each, teacher, self.entry)

    def student(self, seed: int = 0):
        """A fresh adapter on the base, and its optimizer."""
        torch.manual_seed(seed)
        peft = add_adapter(self.model, self.config)
        optimizer = torch.optim.AdamW([p for p in peft.parameters() if p.requires_grad], lr=1e-3, weight_decay=0)
        return peft, optimizer

    def asu(self, peft, pairs=None, packing: Packing | Literal["auto"] | None = "auto") -> Callable[[], torch.Tensor]:
        """This program's step: cached targets, layers above the entry, the head on answer tokens.

        Args:
            packing: ``auto`` does what training does on this device.
        """
        student = Student(peft, entry=self.entry)
        collator = Collator(
            self.rows,
            needs_of(self.losses),
            self.pad_id,
            most_tokens=tokens_of_training(self.device),
            packing=packing_of(self.model) if packing == "auto" else packing,
        )

        freed = FreedMemory()

        def loss() -> torch.Tensor:
            total = torch.zeros((), device=self.device)
            for micro_batch in on(self.device, collator(pairs or self.pairs))["micro_batches"]:
                parts = losses(student(micro_batch["passes"]), micro_batch, self.losses, self.head)
                part = sum(parts.values())
                part.backward()
                total += part.detach()
                if self.device.type == "cpu":
                    freed.passed()  # as training does
            return total

        def above() -> torch.Tensor:
            with student.ready():
                return loss()

        return above

    def plain(self, peft, pairs=None, backward: bool = True) -> Callable[[], torch.Tensor]:
        """QLoRA as users run it: cross-entropy on the answers, transformers' own loss, the same padded passes.

        Args:
            backward: False leaves it at the forward passes.
        """
        pairs = pairs or self.pairs
        items = [self.rows["forget"].answers[i] for i, _ in pairs] + [
            self.rows["retain"].answers[j] for _, js in pairs for j in js
        ]
        passes = [
            on(self.device, (batch, labels_of([items[i] for i in group], batch["input_ids"])))
            for group, batch in forward_passes(items, self.pad_id)
        ]
        tokens = sum(len(item.answer_ids) for item in items)

        def loss() -> torch.Tensor:
            total = torch.zeros((), device=self.device)
            for batch, labels in passes:
                part = peft(
                    input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels, use_cache=False
                ).loss * ((labels != -100).sum() / tokens)
                if backward:
                    part.backward()
                total += part.detach()
            return total

        return loss

    def straightforward(self, peft, pairs=None) -> Callable[[], torch.Tensor]:
        """As the paper's code does it: rows padded to 500, teacher and base run at every step, logits of every
        position. (Its second and third model are here the same weights: adapter off, adapter off and smoothed.)"""
        pairs = pairs or self.pairs[:4]
        forget = on(self.device, padded([self.rows["forget"].answers[i] for i, _ in pairs], self.pad_id))
        retain = on(self.device, padded([self.rows["retain"].answers[j] for _, js in pairs for j in js], self.pad_id))

        def logits(batch):
            return peft(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits

        def loss() -> torch.Tensor:
            with torch.no_grad(), peft.disable_adapter():
                with attention_smoothing(self.model, TAU, self.layers):
                    teacher = logits(forget)
                reference = logits(retain)
            total = full_kl(teacher, logits(forget), forget["labels"]) + full_kl(
                reference, logits(retain), retain["labels"]
            )
            total.backward()
            return total.detach()

        return loss


def full_kl(reference: torch.Tensor, student: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean over rows of the mean over answer tokens of KL(reference || student), from full logits (b, L, V)."""
    target, found = log_softmax(reference[:, :-1].float(), -1), log_softmax(student[:, :-1].float(), -1)
    kl, mask = (target.exp() * (target - found)).sum(-1), labels[:, 1:] != -100
    return ((kl * mask).sum(1) / mask.sum(1)).mean()


def padded(items: list[Encoded], pad_id: int, width: int = PADDED) -> dict[str, torch.Tensor]:
    ids, mask = torch.full((len(items), width), pad_id), torch.zeros((len(items), width), dtype=torch.long)
    for row, item in enumerate(items):
        ids[row, : len(item)] = torch.tensor(item.prompt_ids + item.answer_ids)
        mask[row, : len(item)] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels_of(items, ids)}


def labels_of(items: list[Encoded], ids: torch.Tensor) -> torch.Tensor:
    """transformers' labels: -100 where there is no loss."""
    labels = torch.full_like(ids, -100)
    for row, item in enumerate(items):
        labels[row, len(item.prompt_ids) : len(item)] = torch.tensor(item.answer_ids)
    return labels


def plain(rows: list[dict]) -> list[dict]:
    return [{"question": row["question"], "answer": row["answer"]} for row in rows]


def on(device: torch.device, batch):
    """A batch with its tensors there."""
    return tree_map(lambda x: x.to(device) if isinstance(x, torch.Tensor) else x, batch)


def settled() -> None:
    """Wait for what a GPU still has to do, where one is in use."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def timed(step: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer) -> tuple[float, float]:
    """Seconds and loss of one step, optimizer included."""
    settled()
    began = time.perf_counter()
    value = step()
    optimizer.step()
    optimizer.zero_grad()
    settled()
    return time.perf_counter() - began, float(value)


def settled_memory(device: torch.device) -> int:
    """Bytes now, after handing back what is free; the peak is counted from here on."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts anew
    return resident("VmRSS")


def peak_memory(device: torch.device) -> int:
    """The most bytes since :func:`settled_memory`: allocated on a GPU, else resident."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident("VmHWM")


def resident(what: str) -> int:
    """Bytes of this process: resident (VmRSS) or its peak (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) * 1024
    raise LookupError(what)
