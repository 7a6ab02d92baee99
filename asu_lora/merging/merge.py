"""Adapters baked into the base: tensor by tensor from its shards to new ones, rounded once.

W' = R(W + sum_i weight_i scaling_i B_i A_i), the sum in fp32 and R the one rounding to the stored precision.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from asu_lora.adapters.lora_folder import LoraFolder, read_lora, refuse_different_bases
from asu_lora.bases.checkpoint_files import read_checkpoint, read_config
from asu_lora.bases.quantization import stored_settings
from asu_lora.bases.source import BaseSource, resolve_base
from asu_lora.errors import SettingError
from asu_lora.merging.checkpoint.architecture import skeleton_of
from asu_lora.merging.checkpoint.companion_files import copy_companions, write_config
from asu_lora.merging.checkpoint.staged_folder import staged_folder
from asu_lora.merging.checkpoint.tensor_reader import LazyTensorReader
from asu_lora.merging.checkpoint.tensor_writer import TensorWriter
from asu_lora.merging.durable.residual_adapter import FOLDER
from asu_lora.merging.merge_plan import TensorPlan, plan_merge
from asu_lora.merging.nf4.quantization import Quantization, stored_quantization
from asu_lora.merging.onto import choose_onto, refuse_other_base
from asu_lora.merging.report import MergeReport
from asu_lora.merging.row_workers import compiled_bf16, workers
from asu_lora.merging.tensor_stream import PRECISIONS, ByteProgress, TensorStream
from asu_lora.models.adapter_stack import check_fit

if TYPE_CHECKING:
    from asu_lora.merging.durable.durable_rounding import DurableRounding, DurableSettings

SHARD_SIZE = 5_000_000_000
WORTH_COMPILING = 1_000_000_000  # bytes of the base: to load numba takes as long as it saves on half of that


def merge(
    base: str | Path | BaseSource,
    adapters: Sequence[tuple[str | Path, float]],
    out: str | Path,
    precision: str = "bf16",
    onto: str | None = None,
    *,
    shard_size: int = SHARD_SIZE,
    progress: ByteProgress | None = None,
    trust_remote_code: bool = False,
    durable: "DurableSettings | None" = None,
) -> MergeReport:
    """Write a checkpoint of the base with adapters added, which plain transformers loads.

    Memory is a few rows of a tensor, and one whole tensor (in fp32, a few times) where it passes through NF4.
    A durable merge also loads the base in NF4 with the adapters on, and holds up to 2 GiB of the second moments
    of its layers' inputs (:mod:`asu_lora.merging.durable.input_moments`).

    Args:
        base: hub id, folder, or what :func:`asu_lora.bases.source.resolve_base` gave.
        adapters: (PEFT LoRA folder, weight) pairs, all of this base.
        out: folder to make; written beside and renamed, so that it is there whole or not at all.
        precision: ``bf16``, ``fp16``, ``fp32``, or ``nf4`` in bitsandbytes' layout.
        onto: add to the ``original`` weights or to the ``quantized`` (NF4) ones; None for what the adapters
            were trained on.
        shard_size: bytes of tensors a file, at most, unless one tensor is larger.
        progress: called with (bytes of the base done, bytes in all).
        durable: with nf4, choose the rounding that keeps what the adapters do on these questions; with a residual
            rank, what it lost is written as a PEFT folder ``residual-adapter`` in ``out``.

    Raises:
        AdapterError: an adapter that is broken, more than a LoRA, or of another base.
        BaseModelError: a base that can't be read, is no causal LM, or is quantised otherwise.
        SettingError: an unknown precision, adapters that disagree on ``onto``, or a folder that isn't empty.
    """
    started = time.perf_counter()
    _refuse_nonsense(adapters, precision, durable)
    source = base if isinstance(base, BaseSource) else resolve_base(str(base))
    loras = [(read_lora(folder), float(weight)) for folder, weight in adapters]
    only = [lora for lora, _ in loras]
    refuse_different_bases(only)
    config = read_config(source.path)
    types = {tensor.info.dtype for tensor in read_checkpoint(source.path).values()}
    onto, settings = choose_onto(only, stored_quantization(config, source.name), onto, types)
    refuse_other_base(source, only)
    job = _Job(source, config, loras, Path(out), precision, onto, settings, shard_size, trust_remote_code)
    with job.stream(progress) as stream:
        plans = job.plans(stream)
        if durable:
            stream.durable = _durable(durable, source, adapters, plans, trust_remote_code)
        for plan in plans:
            stream.tensor(plan)
        shards = job.finish(stream)
    return job.report(stream, len(shards), time.perf_counter() - started)


@dataclass(frozen=True)
class _Job:
    """What is merged into what, once nothing but the tensors themselves can be refused."""

    source: BaseSource
    config: dict[str, Any]
    loras: list[tuple[LoraFolder, float]]
    out: Path
    precision: str
    onto: str
    settings: Quantization
    shard_size: int
    trust_remote_code: bool

    @contextmanager
    def stream(self, progress: ByteProgress | None) -> Iterator[TensorStream]:
        """The files of both sides, open; the folder takes its name when the block ends well."""
        on_nf4 = any(lora.manifest and lora.manifest.base.precision == "nf4" for lora, _ in self.loras)
        with (
            LazyTensorReader(self.source.path) as reader,
            staged_folder(self.out) as stage,
            TensorWriter(stage, self.shard_size) as writer,
            workers() as threads,
        ):
            skips = (stored_settings(self.config, self.source.name) or {}).get("llm_int8_skip_modules")
            stream = TensorStream(
                reader=reader,
                writer=writer,
                workers=threads,
                skeleton=skeleton_of(self.source, reader.tensors, self.trust_remote_code, skips),
                precision=self.precision,
                quantized=self.onto == "quantized",
                compare=on_nf4 or self.onto == "quantized",
                settings=self.settings,
                progress=progress,
            )
            if self.precision == "bf16" and reader.total_bytes >= WORTH_COMPILING:
                stream.compiled = compiled_bf16()
            yield stream

    def plans(self, stream: TensorStream) -> list[TensorPlan]:
        """What happens to each tensor, once every adapter is known to fit the base as PEFT would put it there."""
        modules = {name for name, _ in stream.skeleton.model.named_modules()}
        placed = [(lora.aligned_to(modules), weight) for lora, weight in self.loras]
        plans = plan_merge(stream.reader, stream.skeleton, placed)
        check_fit(stream.skeleton.model, [(lora.path, weight) for lora, weight in placed])
        return plans

    def finish(self, stream: TensorStream) -> list[Path]:
        """Headers, and all that lies beside the weights; the shards that were written."""
        stream.finish()
        shards, stage = stream.writer.finish(), stream.writer.folder
        if stream.durable and stream.durable.residual.factors:
            stream.durable.residual.write(stage / FOLDER, str(self.out))
        copy_companions(self.source.path, stage)
        four_bit = None
        if self.precision == "nf4":
            four_bit = _quantization_config(self.settings, stream.skeleton.skipped, stream.storage_dtype)
        write_config(self.config, stage, PRECISIONS[self.precision], four_bit)
        return shards

    def report(self, stream: TensorStream, shards: int, seconds: float) -> MergeReport:
        return MergeReport(
            out=self.out,
            base=self.source.name,
            adapters=[(lora.name, weight) for lora, weight in self.loras],
            precision=self.precision,
            onto=self.onto,
            onto_difference=stream.onto_difference,
            modules=stream.modules,
            shards=shards,
            bytes=stream.writer.total_bytes,
            seconds=seconds,
            durability=stream.durable.modules if stream.durable else [],
            residual_rank=stream.durable.settings.residual_rank if stream.durable else 0,
        )


def _refuse_nonsense(
    adapters: Sequence[tuple[str | Path, float]], precision: str, durable: "DurableSettings | None"
) -> None:
    if precision not in PRECISIONS:
        raise SettingError(f"The precision '{precision}' is none of {', '.join(PRECISIONS)}.")
    if not adapters:
        raise SettingError("There is nothing to merge: name at least one adapter.")
    if durable and precision != "nf4":
        raise SettingError(f"A durable merge is one to nf4: in {precision} rounding takes next to nothing.")
    for folder, weight in adapters:
        if not math.isfinite(weight):
            raise SettingError(f"The weight {weight} of the adapter '{Path(folder).name}' is no number.")


def _durable(
    settings: "DurableSettings",
    source: BaseSource,
    adapters: Sequence[tuple[str | Path, float]],
    plans: Sequence[TensorPlan],
    trust_remote_code: bool,
) -> "DurableRounding":
    from asu_lora.merging.durable.durable_rounding import prepare  # loads libraries that a plain merge does without

    order = [plan.module for plan in plans if plan.updates and (plan.four_bit or plan.packed)]
    if not order:
        raise SettingError("The adapters change nothing that is held in 4 bit: a durable merge has nothing to do.")
    return prepare(settings, source, [(Path(folder), weight) for folder, weight in adapters], order, trust_remote_code)


def _quantization_config(settings: Quantization, skipped: list[str], dtype: torch.dtype | None) -> dict[str, Any]:
    """What ``from_pretrained`` must know to load the 4-bit weights."""
    from transformers import BitsAndBytesConfig

    compute = dtype if dtype in (torch.bfloat16, torch.float16) else settings.compute_dtype or torch.float32
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=settings.quant_type,
        bnb_4bit_compute_dtype=compute,
        bnb_4bit_use_double_quant=settings.double_quant,
        llm_int8_skip_modules=skipped,
    ).to_dict()
