"""The passes of several trainings, made as one: their rows side by side, each row with its own training's adapter.

A training hands over its rows and gets final hidden states as if it had made the pass alone. It takes its losses'
gradients by these states and hands them back; the pass is differentiated once, for all.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from accelerate.state import GradientState
from peft.utils import load_peft_weights
from safetensors.torch import save_file

from asu_lora.adapters.manifest import WEIGHTS_NAME
from asu_lora.models.frozen_layers import FrozenLayers
from asu_lora.training.meeting import Meeting
from asu_lora.training.per_row import LooseAdapter, RowAdapters
from asu_lora.training.student import pass_states

WASTE = 0.25  # of a joint pass may be padding: on top of it a pass of its own costs more, in a small model

Batch = Mapping[str, torch.Tensor]


class Unit(NamedTuple):
    """One pass of one training: whose, the how manieth of those it asked for, and its batch."""

    number: int
    at: int
    batch: Batch


class SharedPasses:
    """Makes the forward and backward passes that trainings meet for.

    Args:
        adapters: whose rows they are, by number; in place.
        pad_id: the padding token.
        entry: the layers that are run begin there, for all trainings alike.
        layer: a decoder layer whose states the losses look at too.
    """

    def __init__(self, adapters: RowAdapters, pad_id: int, entry: FrozenLayers | None = None, layer: int | None = None):
        self.adapters, self.pad_id, self.entry, self.layer = adapters, pad_id, entry, layer
        self.states: dict[int, torch.Tensor] = {}  # of each training's last forward pass
        self.made = 0  # joint passes, so far

    @contextmanager
    def ready(self) -> Iterator["SharedPasses"]:
        """Inside, passes can be made."""
        with self.entry.replayed() if self.entry is not None else nullcontext():
            yield self

    def serve(self, asked: Mapping[int, Any]) -> dict[int, Any]:
        """Passes for those who hand over rows, gradients for those who hand back theirs."""
        gradients = {number: what for number, what in asked.items() if isinstance(what, torch.Tensor)}
        if gradients:
            torch.autograd.backward([self.states[number] for number in gradients], list(gradients.values()))
        found: dict[int, Any] = dict.fromkeys(gradients)
        self.states = {}
        passes = {number: what for number, what in asked.items() if number not in gradients}
        return found | (self._forward(passes) if passes else {})

    def _forward(self, passes: Mapping[int, Sequence[Batch]]) -> dict[int, torch.Tensor]:
        units = [Unit(number, at, batch) for number, own in passes.items() for at, batch in enumerate(own)]
        parts: dict[tuple[int, int], torch.Tensor] = {}
        for group in groups(units):
            batch = side_by_side([unit.batch for unit in group], self.pad_id)
            rows = [unit.number for unit in group for _ in unit.batch["input_ids"]]
            with self.adapters.acting(rows, batch.get("doses")):
                states = pass_states(self.adapters.model, batch, self.entry, self.layer)
            self.made += 1
            sizes = [len(unit.batch["positions"]) for unit in group]
            for unit, part in zip(group, states.split(sizes), strict=True):
                parts[unit.number, unit.at] = part
        for number, own in passes.items():
            self.states[number] = torch.cat([parts[number, at] for at in range(len(own))])
        return {number: self.states[number].detach().requires_grad_() for number in passes}


def groups(units: Sequence[Unit]) -> list[list[Unit]]:
    """Which passes are made as one: those of like width, the widest first, with at most ``WASTE`` of padding."""
    found: list[list[Unit]] = []
    for unit in sorted(units, key=lambda unit: -unit.batch["input_ids"].shape[1]):
        if found:
            width = found[-1][0].batch["input_ids"].shape[1]
            together = [*found[-1], unit]
            size = width * sum(len(each.batch["input_ids"]) for each in together)
            own = sum(each.batch["input_ids"].numel() for each in together)
            if size - own <= WASTE * size:
                found[-1].append(unit)
                continue
        found.append([unit])
    return found


def side_by_side(batches: Sequence[Batch], pad_id: int) -> dict[str, torch.Tensor]:
    """The rows of several padded passes in one, as :func:`~asu_lora.batches.padding.pad_group` would pad them."""
    width = max(batch["input_ids"].shape[1] for batch in batches)
    found: dict[str, list[torch.Tensor]] = {}
    rows = 0
    for batch in batches:
        own = batch["input_ids"].shape[1]
        wider = (0, width - own)
        padded = {
            "input_ids": torch.nn.functional.pad(batch["input_ids"], wider, value=pad_id),
            "attention_mask": torch.nn.functional.pad(batch["attention_mask"], wider),
            "positions": (batch["positions"] // own + rows) * width + batch["positions"] % own,
        }
        if "entry" in batch:
            padded["entry"] = torch.nn.functional.pad(batch["entry"], (0, 0, *wider))
        if any("doses" in each for each in batches):
            ones = torch.ones(len(batch["input_ids"]), 1, 1, device=batch["input_ids"].device)
            padded["doses"] = batch.get("doses", ones)
        for name, tensor in padded.items():
            found.setdefault(name, []).append(tensor)
        rows += len(batch["input_ids"])
    return {name: torch.cat(tensors) for name, tensors in found.items()}


class SharedStudent(torch.nn.Module):
    """A training's view of the base with its own adapter: its passes are made with those of the others.

    Args:
        adapter: what is trained.
        number: of the training.
        meeting: where passes are asked for.
    """

    packs = False

    def __init__(self, adapter: LooseAdapter, number: int, meeting: Meeting):
        super().__init__()
        self.adapter, self.number, self.meeting = adapter, number, meeting
        self.states: torch.Tensor | None = None
        for name, pair in adapter.pairs.items():
            for which in ("a", "b"):
                self.register_parameter(f"{name}.lora_{which}".replace(".", "/"), getattr(pair, which))

    def forward(self, passes: Sequence[Batch]) -> torch.Tensor:
        """Final hidden states (T, H), as :class:`asu_lora.training.student.Student` gives them."""
        self.states = self._ask(passes)
        return self.states

    def pass_back(self) -> None:
        """Hand back the gradient by the states; the adapter's own comes with those of the others."""
        states, self.states = self.states, None
        if states is not None and states.grad is not None:
            self._ask(states.grad)

    def _ask(self, what: Any) -> Any:
        """The others' trainings set accelerate's flag too, which all of a process share."""
        shared = GradientState()
        step_follows = shared.sync_gradients
        answer = self.meeting.ask(self.number, what)
        shared._set_sync_gradients(step_follows)
        return answer

    def ready(self) -> AbstractContextManager[None]:
        """The shared passes see to that."""
        return nullcontext()

    def save(self, folder: str) -> None:
        """Write the adapter as PEFT would: a run that was begun here may be gone on with alone."""
        save_file({name: each.detach().contiguous().cpu() for name, each in self.adapter.weights.items()},
                  f"{folder}/{WEIGHTS_NAME}", {"format": "pt"})  # fmt: skip
        self.adapter.config.save_pretrained(folder)

    def load(self, folder: str) -> None:
        """Take over the adapter that was written there."""
        self.adapter.load(load_peft_weights(folder, device="cpu"))
