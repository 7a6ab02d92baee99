"""Adapters baked into the base: tensor by tensor from its shards to new ones, rounded once.

W' = R(W + sum_i weight_i scaling_i B_i A_i), the sum in fp32 and R the one rounding to the stored precision.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from asu_lora.adapters.lora_folder import LoraFolder, read_lora
from asu_lora.adapters.one_base import refuse_different_bases
from asu_lora.bases.checkpoint_files import read_checkpoint, read_config
from asu_lora.bases.quantization import refuse_unnamed_format, stored_settings
from asu_lora.bases.source import BaseSource, resolve_base
from asu_lora.errors import SettingError
from asu_lora.merging.checkpoint.architecture import Skeleton, skeleton_of
from asu_lora.merging.checkpoint.companion_files import copy_companions, write_config
from asu_lora.merging.checkpoint.staged_folder import staged_folder
from asu_lora.merging.checkpoint.tensor_reader import LazyTensorReader
from asu_lora.merging.checkpoint.tensor_writer import TensorWriter
from asu_lora.merging.durable.residual_adapter import FOLDER
from asu_lora.merging.merge_plan import TensorPlan, plan_merge
from asu_lora.merging.merge_record import write_record
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
    *,
    onto: str | None = None,
    shard_size: int = SHARD_SIZE,
    progress: ByteProgress | None = None,
    trust_remote_code: bool = False,
    durable: "DurableSettings | None" = None,
) -> MergeReport:
    """Write a checkpoint of the base with adapters added, which plain transformers loads.

    Memory is a few rows of a tensor, and one whole tensor (in fp32, a few times) where it passes through NF4. A durable
    merge also loads the base in NF4, and holds up to 2 GiB of second moments (:mod:`.durable.input_moments`).

    Args:
        base: hub id, folder, or what :func:`asu_lora.bases.source.resolve_base` gave.
        adapters: (PEFT LoRA folder, weight) pairs, all of this base.
        out: folder to make; written beside and renamed, so that it is there whole or not at all.
        precision: ``bf16``, ``fp16``, ``fp32``, or ``nf4`` in bitsandbytes' layout.
        onto: add to the ``original`` weights or the ``quantized`` (NF4) ones; None for what they were trained on.
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
    loras, config = _read_loras(adapters), read_config(source.path)
    onto, settings = _ground(source, config, [lora for lora, _ in loras], onto)
    onto_nf4 = onto == "quantized"
    with (
        LazyTensorReader(source.path) as reader,
        staged_folder(out) as stage,
        TensorWriter(stage, shard_size) as writer,
        workers() as threads,
    ):
        skips = (stored_settings(config, source.name) or {}).get("llm_int8_skip_modules")
        skeleton = skeleton_of(source, reader.tensors, trust_remote_code, skips)
        compare = onto_nf4 or any(lora.manifest and lora.manifest.base.precision == "nf4" for lora, _ in loras)
        stream = TensorStream(reader, writer, threads, skeleton, precision, onto_nf4, compare, settings, progress)
        if precision == "bf16" and reader.total_bytes >= WORTH_COMPILING:
            stream.compiled = compiled_bf16()
        plans = _plans(reader, skeleton, loras)
        if durable:
            stream.durable = _durable(durable, source, adapters, plans, trust_remote_code)
        shards = _write_tensors(stream, plans)
        _write_companions(stream, stage, source, config, str(out), loras)
    report = MergeReport(Path(out), source.name, [(lora.name, weight) for lora, weight in loras], precision, onto)
    _fill(report, stream, durable.residual_rank if durable else 0)
    report.shards, report.seconds = shards, time.perf_counter() - started
    return report


def _write_tensors(stream: TensorStream, plans: Sequence[TensorPlan]) -> int:
    """The number of files they take."""
    for plan in plans:
        stream.tensor(plan)
    stream.finish()
    return len(stream.writer.finish())


def _fill(report: MergeReport, stream: TensorStream, residual_rank: int) -> None:
    """What rounding did, into the report."""
    report.onto_difference, report.modules = stream.onto_difference, stream.modules
    report.bytes, report.residual_rank = stream.writer.total_bytes, residual_rank
    report.four_bit = stream.settings.quant_type
    report.durability = stream.durable.modules if stream.durable else []


def _write_companions(
    stream: TensorStream,
    stage: Path,
    source: BaseSource,
    config: dict[str, Any],
    out: str,
    loras: Sequence[tuple[LoraFolder, float]],
) -> None:
    """What lies beside the weights: tokenizer, config, what was merged, and what a durable merge could not keep."""
    write_record(stage, loras)
    if stream.durable and stream.durable.residual.factors:
        stream.durable.residual.write(stage / FOLDER, out)
    copy_companions(source.path, stage)
    four_bit = None
    if stream.precision == "nf4":
        four_bit = _quantization_config(stream.settings, stream.skeleton.skipped, stream.storage_dtype)
    write_config(config, stage, PRECISIONS[stream.precision], four_bit)


def _refuse_nonsense(
    adapters: Sequence[tuple[str | Path, float]], precision: str, durable: "DurableSettings | None"
) -> None:
    if precision not in PRECISIONS:
        raise SettingError(f"The precision '{precision}' is none of {', '.join(PRECISIONS)}.")
    if not adapters:
        raise SettingError("There is nothing to merge: name at least one adapter.")
    if durable and precision != "nf4":
        raise SettingError(f"A durable merge is one to nf4: in {precision} rounding takes next to nothing.")


def _read_loras(adapters: Sequence[tuple[str | Path, float]]) -> list[tuple[LoraFolder, float]]:
    loras = [(read_lora(folder, copies=True), float(weight)) for folder, weight in adapters]
    for lora, weight in loras:
        if not math.isfinite(weight):
            raise SettingError(f"The weight {weight} of the adapter '{lora.name}' is no number.")
    refuse_different_bases([lora for lora, _ in loras])
    return loras


def _ground(
    source: BaseSource, config: dict[str, Any], loras: list[LoraFolder], onto: str | None
) -> tuple[str, Quantization]:
    """Which weights the updates are added to, and how NF4 makes them; adapters of another base are refused."""
    tensors = read_checkpoint(source.path)
    refuse_unnamed_format(tensors, config, source.name)
    types = {tensor.info.dtype for tensor in tensors.values()}
    onto, settings = choose_onto(loras, stored_quantization(config, source.name), onto, types)
    refuse_other_base(source, loras)
    return onto, settings


def _plans(reader: LazyTensorReader, skeleton: Skeleton, loras: list[tuple[LoraFolder, float]]) -> list[TensorPlan]:
    """What happens to each tensor; adapters that do not fit the base are refused."""
    modules = {name for name, _ in skeleton.model.named_modules()}
    aligned = [(lora.aligned_to(modules), weight) for lora, weight in loras]
    plans = plan_merge(reader, skeleton, aligned)
    check_fit(skeleton.model, [(lora.path, weight) for lora, weight in aligned])
    return plans


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
