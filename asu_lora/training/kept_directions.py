"""A new adapter that keeps off the directions which the kept rows use most, so that adapters add up.

The A of a LoRA reads r directions of its module's input. In every module A keeps off a share of the directions: the
largest eigenvectors of the mean of x x^T over all tokens of the retain rows, each x divided by its own norm (a few
first tokens outweigh all else otherwise). The null space of what is kept is AlphaEdit's for editing facts (Fang et al.,
arXiv 2410.02355); here a share of the directions is taken in every module, not a share of the energy, and A is
projected after every optimizer step. docs/results/adding_up.md has the figures.
"""

from collections.abc import Mapping
from contextlib import ExitStack

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from asu_lora.batches.forward_passes import forward_passes
from asu_lora.batches.token_budget import tokens_of_reading
from asu_lora.data.training_rows import TrainingRows
from asu_lora.models.decoder import answer_hidden, decoder_of
from asu_lora.models.frozen_adapters import NEW
from asu_lora.models.frozen_layers import FrozenLayers
from asu_lora.models.packing_trial import packing_of
from asu_lora.training.projection import Projection, lora_a

MOST_ROWS = 160  # of the retain rows, in the moments
MOST_INPUTS = 2048  # of a module; the eigenvectors of wider ones would take longer than training: those have a sketch
SKETCH = 1024  # tokens, spread evenly over the rows, that stand for all in a wider module
MOST_KEPT = 512  # directions that a wider module is kept off: 29 MB of 14,336 inputs


Directions = list[tuple[tuple[str, ...], torch.Tensor]]  # modules that read the same input, and (in, k) of it


class KeepOff(Projection):
    """Projects the new adapter's A off the kept directions of each module's input: now, and after every step.

    Args:
        student: the base with the new adapter.
        directions: :func:`kept_directions` of the retain rows.

    Attributes:
        sketched: how many modules read more than ``MOST_INPUTS`` numbers, and are kept off fewer directions.
    """

    def __init__(self, student: PeftModel, directions: Directions):
        layers = adapted_layers(student)
        pairs: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
        for names, basis in directions:
            weights = [lora_a(layers[name], NEW) for name in names]
            on_device = basis.to(weights[0].device)
            pairs += [(weight, on_device) for weight in weights]
        self.sketched = sum(len(basis) > MOST_INPUTS for _, basis in pairs)
        super().__init__(pairs)


def kept_directions(
    student: PeftModel, rows: TrainingRows, share: float, pad_id: int, frozen_layers: FrozenLayers | None
) -> Directions:
    """The directions that rows use most, of every input that the new adapter reads; on the CPU.

    Args:
        student: the base with the new adapter, which still adds nothing (B = 0).
        rows: the retain rows.
        share: of the directions, above 0 and below 1.
        pad_id: the padding token.
        frozen_layers: those below the first adapter, whose states the rows hold; None where all run.
    """
    moments = InputMoments(adapted_layers(student))
    moments.read(student, rows, pad_id, frozen_layers)
    readers: dict[str, list[str]] = {}
    for name, of in moments.same_as.items():
        readers.setdefault(of, []).append(name)
    # one by one: memory
    return [(tuple(names), moments.directions(of, share).cpu()) for of, names in readers.items()]


def adapted_layers(student: PeftModel) -> dict[str, LoraLayer]:
    """The modules that the new adapter reads the inputs of, by name."""
    return {
        name: module
        for name, module in student.named_modules()
        if isinstance(module, LoraLayer) and NEW in module.lora_A
    }


def kept_count(inputs: int, share: float) -> int:
    """How many directions of a module's input an adapter keeps off, at most."""
    wanted = round(share * inputs)
    return wanted if inputs <= MOST_INPUTS else min(wanted, MOST_KEPT)


@torch.no_grad()
def strongest(moment: torch.Tensor, share: float) -> torch.Tensor:
    """(n, k) eigenvectors of the largest ``share`` of the eigenvalues of ``moment``, (n, n)."""
    _, vectors = torch.linalg.eigh(moment)
    return vectors[:, len(moment) - round(share * len(moment)) :].contiguous()


@torch.no_grad()
def strongest_of_sketch(tokens: torch.Tensor, count: int) -> torch.Tensor:
    """(n, k) directions in which the rows of ``tokens``, (t, n), are strongest; k is ``count``, or fewer if t is.

    They follow from the t x t products, so that no n x n matrix is made.
    """
    values, vectors = torch.linalg.eigh(tokens @ tokens.T)
    some = values > 1e-6 * values[-1]
    found = tokens.T @ vectors[:, some][:, -count:]
    return torch.linalg.qr(found)[0].contiguous()


class InputMoments:
    """The sums of x x^T / |x|^2 over all tokens of some rows, of the inputs x of modules.

    Attributes:
        sums: (in, in) fp32; of a module wider than ``MOST_INPUTS`` at most ``SKETCH`` of the x / |x|, (t, in).
            Modules that read the same input (query, key and value) have one, under the first's name.
        same_as: for each module the name of its sum.
    """

    def __init__(self, layers: Mapping[str, LoraLayer]):
        self.layers = layers
        self.sums: dict[str, torch.Tensor] = {}
        self.same_as: dict[str, str] = {}
        self._read: list[tuple[torch.Tensor, str]] = []  # this pass's inputs, held: no address is used twice
        self._real = torch.empty(0)
        self._sketch = torch.empty(0)  # which of this pass's real tokens

    def directions(self, name: str, share: float) -> torch.Tensor:
        """(in, k) strongest directions of a module's input; its sum is let go."""
        found = self.sums.pop(name)
        inputs = found.shape[1]
        if inputs <= MOST_INPUTS:
            return strongest(found, share)
        return strongest_of_sketch(found, kept_count(inputs, share))

    @torch.no_grad()
    def read(self, student: PeftModel, rows: TrainingRows, pad_id: int, frozen_layers: FrozenLayers | None) -> None:
        """Pass the rows through the model, at most ``MOST_ROWS`` of them, spread evenly."""
        items, entries = rows.own_answers, rows.entries.get("answer") if frozen_layers is not None else None
        if entries is None:  # a retain loss of all positions keeps no states of the answers' view: all layers run
            frozen_layers = None
        at = [i * len(items) // MOST_ROWS for i in range(MOST_ROWS)] if len(items) > MOST_ROWS else range(len(items))
        items, entries = [items[i] for i in at], [entries[i] for i in at] if entries else None
        stride, seen = -(-sum(len(item) for item in items) // SKETCH), 0
        decoder = decoder_of(student)
        device = next(decoder.parameters()).device
        with ExitStack() as until:
            for name, module in self.layers.items():
                until.callback(module.base_layer.register_forward_pre_hook(self._hook(name)).remove)
            if frozen_layers is not None:
                until.enter_context(frozen_layers.replayed())
            packing = packing_of(student)
            for group, batch in forward_passes(items, pad_id, tokens_of_reading(device), entries, packing=packing):
                batch = {key: value.to(device) for key, value in batch.items()}
                self._real = torch.zeros(batch["input_ids"].numel(), dtype=torch.bool, device=device)
                for start, index in zip(batch["starts"].tolist(), group, strict=True):
                    self._real[start : start + len(items[index])] = True
                count = sum(len(items[index]) for index in group)
                self._sketch = torch.arange(count, device=device)[-seen % stride :: stride]
                seen += count
                if frozen_layers is not None:
                    frozen_layers.states = batch["entry"]
                answer_hidden(decoder, batch)
                self._read.clear()

    def _hook(self, name: str):
        def add(_module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            inputs = args[0]
            if name not in self.same_as:
                self.same_as[name] = next((other for seen, other in self._read if seen is inputs), name)
            if self.same_as[name] != name:
                return
            self._read.append((inputs, name))
            inputs = inputs.flatten(0, -2)[self._real].float()
            inputs = inputs / inputs.norm(dim=1, keepdim=True).clamp(min=1e-6)
            if inputs.shape[1] > MOST_INPUTS:
                some = inputs[self._sketch]
                self.sums[name] = torch.cat([self.sums[name], some]) if name in self.sums else some
                return
            product = inputs.T @ inputs
            self.sums[name] = self.sums[name].add_(product) if name in self.sums else product

        return add
