"""One tensor after the other from the base to the merged checkpoint: read, add, round, measure, write."""

import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from asu_lora.errors import BaseModelError
from asu_lora.hardware.precision import TYPES
from asu_lora.merging.checkpoint.architecture import Skeleton
from asu_lora.merging.checkpoint.tensor_reader import LazyTensorReader
from asu_lora.merging.checkpoint.tensor_writer import TensorWriter
from asu_lora.merging.merge_plan import TensorPlan
from asu_lora.merging.nf4 import quantization as nf4
from asu_lora.merging.nf4.grid import Grid
from asu_lora.merging.rounding_error import ModuleRounding
from asu_lora.merging.row_workers import COMPILED_BLOCK, Workers, add_and_round, one_thread, squared_norm

if TYPE_CHECKING:
    from asu_lora.merging.durable.durable_rounding import DurableRounding

PRECISIONS = {**TYPES, "nf4": None}

AHEAD = 2  # tensors begun before the one ahead of them is done, so that no thread waits at a tensor's end

ByteProgress = Callable[[int, int], None]


@dataclass
class TensorStream:
    """The merge under way. Rows pass through one by one; only what goes through NF4 is in memory as a whole
    tensor, since double quantisation needs all its blocks' maxima.

    Attributes:
        quantized: add to the weights as NF4 shows them.
        compare: measure how far these are from the original ones.
        settings: of NF4, as the adapters were trained on and as it is written.
        compiled: takes rows of bf16 from file to file; None does so with torch.
        durable: chooses the 4-bit numbers of weights that take an update; None rounds them to nearest.
        modules: filled with the rounding of every module that takes an update.
        storage_dtype: filled with the type of the base's first float that is not in 4 bit.
        original_square, difference_square: filled with the sums for :attr:`onto_difference`.
    """

    reader: LazyTensorReader
    writer: TensorWriter
    workers: Workers
    skeleton: Skeleton
    precision: str
    quantized: bool
    compare: bool
    settings: nf4.Quantization
    progress: ByteProgress | None = None
    durable: "DurableRounding | None" = None
    compiled: Callable | None = None
    modules: list[ModuleRounding] = field(default_factory=list)
    storage_dtype: torch.dtype | None = None
    original_square: float = 0.0
    difference_square: float = 0.0
    _done: int = 0
    _begun: "deque[tuple[TensorPlan, ModuleRounding | None, list[Future]]]" = field(default_factory=deque)

    def tensor(self, plan: TensorPlan) -> None:
        """Take one tensor through, or begin to: it is done when :meth:`finish` has returned.

        Raises:
            BaseModelError: it, or one before it, can't be read, or holds what the precision can't express.
        """
        dtype = self.reader.dtype(plan.name)
        if not plan.packed and not plan.four_bit and dtype.is_floating_point:
            self.storage_dtype = self.storage_dtype or dtype
        if self.precision == "nf4" and (plan.four_bit or plan.packed):
            self.finish()
            factors = plan.factors()
            if factors is None:
                self._keep_in_nf4(plan)
            else:
                self._merge_into_nf4(plan, *factors)
            self._advance(self._size(plan))
        elif plan.packed or (plan.four_bit and self.compare):
            weight = self._ground(plan)[0]
            self._rows(plan, tuple(weight.shape), weight.dtype, lambda first, last: weight[first:last])
            self.finish()  # no second such weight in memory
        else:
            shape = self.reader.shape(plan.name)
            self._rows(
                plan,
                shape,
                dtype,
                lambda first, last: (
                    self.reader.read_rows(
                        plan.name, first, self.workers.buffer("read", (last - first, *shape[1:]), dtype)
                    )
                    if shape
                    else self.reader.read(plan.name)
                ),
                streamed=True,
            )
            self._collect(AHEAD)

    def finish(self) -> None:
        """Wait for all that was begun.

        Raises:
            BaseModelError: as :meth:`tensor` does.
        """
        self._collect(0)

    @property
    def onto_difference(self) -> float | None:
        """||quantised - original|| / ||original||, None where it was not measured."""
        return math.sqrt(self.difference_square / self.original_square) if self.original_square else None

    # ---- full precision

    def _rows(
        self,
        plan: TensorPlan,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        rows_of: Callable[[int, int], torch.Tensor],
        streamed: bool = False,
    ) -> None:
        """Have a tensor written run by run, each read, changed and written by one of the threads.

        Args:
            streamed: whether ``rows_of`` reads them as they stand in the checkpoint.
        """
        target = self._target(plan, dtype)
        rows, row_elements = (shape[0], math.prod(shape[1:])) if shape else (1, 1)
        place = self.writer.begin(plan.name, target, shape)
        rounding = None
        with one_thread():
            factors = plan.factors()
            if factors is not None:
                update = squared_norm(*factors)
                rounding = ModuleRounding(plan.module)
                rounding.add(update, 0.0, update)
        fits = factors is not None and (rows, row_elements) == (factors[0].shape[0], factors[1].shape[1])
        compiled = self.compiled if streamed and fits and dtype == target == torch.bfloat16 else None

        def work(first: int, last: int) -> tuple[float, float] | None:
            if compiled is not None and factors is not None:
                change, along, problem = compiled(
                    *self.reader.descriptor(plan.name, first),
                    *self.writer.descriptor(place, first, 2 * row_elements),
                    factors[0][first:last].numpy(),
                    factors[1].numpy(),
                )
                if not problem:
                    self.writer.written(2 * (last - first) * row_elements)
                    return change, along
                # what went wrong the way with torch will say
            block, sums = rows_of(first, last), None
            if factors is not None:
                block, sums = add_and_round(block, factors[0][first:last], factors[1], target, self.workers)
            elif dtype != target:
                block = block.to(target)
                if not torch.isfinite(block).all():
                    raise BaseModelError(
                        f"{plan.name} can't be stored as {self.precision}: it holds values "
                        "beyond what that precision can express."
                    )
            self.writer.write_rows(place, first, block)
            return sums

        self._begun.append(
            (
                plan,
                rounding,
                self.workers.start(rows, row_elements, work, COMPILED_BLOCK if compiled else None)
                if 0 not in shape
                else [],
            )
        )

    def _collect(self, most: int) -> None:
        """Wait until no more than so many tensors are under way."""
        while len(self._begun) > most:
            plan, rounding, runs = self._begun.popleft()
            for run in runs:
                sums = run.result()
                if rounding is not None and sums is not None:
                    rounding.add(0.0, *sums)
            if rounding is not None:
                self._measured(plan, rounding)
            self._advance(self._size(plan))

    def _measured(self, plan: TensorPlan, rounding: ModuleRounding) -> None:
        self.modules.append(rounding)
        if not math.isfinite(rounding.change):
            raise BaseModelError(f"{plan.module} can't be stored as {self.precision}: the sum is not finite there.")

    def _target(self, plan: TensorPlan, dtype: torch.dtype) -> torch.dtype:
        wanted = PRECISIONS[self.precision]
        if wanted is None or not dtype.is_floating_point:
            return dtype
        return torch.float32 if self.skeleton.stays_fp32(plan.parameter, wanted) else wanted

    # ---- NF4

    def _keep_in_nf4(self, plan: TensorPlan) -> None:
        """The base's own 4-bit numbers. What NF4 shows, quantised a second time, would move them."""
        if plan.packed:
            for name in (plan.name, *plan.statistics):
                self.writer.add(name, self.reader.read(name))
            return
        exact = nf4.as_loaded(self._original(plan)[0], self.settings)
        self._store(plan, *nf4.quantize(exact.T if plan.conv1d else exact, self.settings))

    def _merge_into_nf4(self, plan: TensorPlan, left: torch.Tensor, right: torch.Tensor) -> None:
        base, before = self._ground(plan)
        delta = left @ right
        exact = base + delta
        packed, state = nf4.quantize(exact.T if plan.conv1d else exact, self.settings)
        rounded = nf4.dequantize(packed, state, self.settings.compute_dtype or torch.float32)
        if self.durable:
            packed, state, rounded = self._durably(plan, base, delta, rounded)
        self._store(plan, packed, state)
        rounding = ModuleRounding(plan.module)
        if before is None:  # what 4 bit would hold without the update
            before = self._through_nf4(plan, base)
        rounding.measure(delta, exact, rounded.T if plan.conv1d else rounded, before)
        self._measured(plan, rounding)

    def _store(self, plan: TensorPlan, packed: torch.Tensor, state: Any) -> None:
        for name, tensor in nf4.stored_tensors(plan.name, packed, state, self.settings).items():
            self.writer.add(name, tensor)

    def _durably(
        self, plan: TensorPlan, base: torch.Tensor, delta: torch.Tensor, nearest: torch.Tensor
    ) -> tuple[torch.Tensor, Any, torch.Tensor]:
        """Packed numbers, state and values (out, in) of the choices that keep the update, on the base's own scales."""
        if self.durable is None:
            raise ValueError("no durable merge was asked for")
        if plan.packed:
            grid = Grid.stored(self.reader, plan.name)
        else:
            original = self.reader.read(plan.name).to(torch.float32)
            grid = Grid.of(original.T if plan.conv1d else original, self.settings)
        if plan.conv1d:
            base, delta = base.T, delta.T
        if self.quantized:
            base = grid.values()  # before the compute type rounds them: that rounds every choice alike
        choices = self.durable.choose(plan.module, grid, base, delta, nearest)
        return grid.pack(choices), grid.state, grid.values(choices)

    def _ground(self, plan: TensorPlan) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What updates of a linear layer's weight go onto, in fp32 as the checkpoint lays it out; and what NF4 shows
        of the base, where that was made on the way."""
        if plan.packed:
            seen = nf4.read_packed(self.reader, plan.name, self.settings)
            seen = seen.T.contiguous() if plan.conv1d else seen
            return seen, seen
        original, shown = self._original(plan)
        return (shown if shown is not None and self.quantized else original), shown

    def _original(self, plan: TensorPlan) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A linear layer's weight in fp32 as the checkpoint has it and, where the two are compared, as NF4 shows it."""
        original = self.reader.read(plan.name).to(torch.float32)
        if not self.compare:
            return original, None
        seen = self._through_nf4(plan, original)
        self.original_square += torch.linalg.vector_norm(original).item() ** 2
        self.difference_square += torch.linalg.vector_norm(seen - original).item() ** 2
        return original, seen

    def _through_nf4(self, plan: TensorPlan, weight: torch.Tensor) -> torch.Tensor:
        if plan.conv1d:
            return nf4.seen_through_nf4(weight.T, self.settings).T.contiguous()
        return nf4.seen_through_nf4(weight, self.settings)

    def _size(self, plan: TensorPlan) -> int:
        infos = (self.reader.tensors[name] for name in (plan.name, *plan.statistics))
        return sum(info.end - info.start for info in infos)

    def _advance(self, size: int) -> None:
        self._done += size
        if self.progress:
            self.progress(self._done, self.reader.total_bytes)
