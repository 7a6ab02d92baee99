"""The folder of a combined adapter: plain PEFT files, and a manifest that tells what is inside."""

import hashlib
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from asu_lora.adapters.additive import ADDS_UP, adds_up
from asu_lora.adapters.combine_report import CombineReport
from asu_lora.adapters.compute_types import COMPUTE_TYPE, COMPUTE_TYPES, compute_types
from asu_lora.adapters.forgetting_curve import curves_of_sum
from asu_lora.adapters.lineage import contents_of, still_beneath
from asu_lora.adapters.lora_folder import LoraFolder
from asu_lora.adapters.manifest import WEIGHTS_NAME, BaseRecord, Manifest, MethodRecord, RequestRecord, write_manifest
from asu_lora.adapters.model_card import write_model_card
from asu_lora.adapters.own_inputs import write_own_inputs
from asu_lora.data.row_format import RowFormat
from asu_lora.files import as_any_new_file

_COUNTS = ("forget_rows", "forget_tokens", "retain_rows", "retain_tokens", "skipped_rows", "cut_rows")


def write_combined(
    report: CombineReport,
    tensors: dict[str, torch.Tensor],
    loras: Sequence[LoraFolder],
    own_inputs: Mapping[str, torch.Tensor],
    *,
    name: str,
    rank: int | None,
    started: float,
) -> None:
    """Write weights, config, own inputs where there are any, and manifest and card where a source has a manifest.

    Raises:
        OSError: the disk refuses; what was written so far is the caller's to remove.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    report.path.mkdir(parents=True, exist_ok=True)
    save_file(tensors, report.path / WEIGHTS_NAME, metadata={"format": "pt"})
    as_any_new_file(report.path / WEIGHTS_NAME)
    if own_inputs:
        write_own_inputs(report.path, own_inputs)
    ranks = {module.module: module.kept_rank for module in report.modules}
    # r is the largest rank: servers such as vLLM make room for r and know no patterns. The caret keeps a
    # module's name from matching the end of a longer one.
    pattern = {f"^{re.escape(module)}": kept for module, kept in ranks.items() if kept != report.rank}
    first = loras[0].config
    config = LoraConfig(
        r=report.rank,
        lora_alpha=report.rank,
        rank_pattern=pattern,
        alpha_pattern=dict(pattern),
        target_modules=_target_modules(loras, list(ranks)),
        fan_in_fan_out=bool(first.get("fan_in_fan_out")),
        task_type=first.get("task_type"),
        inference_mode=True,
        base_model_name_or_path=next(
            (
                lora.config.get("base_model_name_or_path")
                for lora in loras
                if lora.config.get("base_model_name_or_path")
            ),
            None,
        ),
        revision=first.get("revision"),
    )
    # PEFT keeps a set, which would be written in another order each time.
    config.target_modules = sorted(config.target_modules or (), key=natural)
    config.save_pretrained(str(report.path))
    if any(lora.manifest for lora in loras):
        manifest = _manifest(report, loras, name=name, rank=rank, seconds=time.perf_counter() - started)
        write_model_card(report.path, manifest)
        write_manifest(report.path, manifest)


def _manifest(
    report: CombineReport, loras: Sequence[LoraFolder], *, name: str, rank: int | None, seconds: float
) -> Manifest:
    known = [lora.manifest for lora in loras if lora.manifest]
    precisions = {manifest.base.precision for manifest in known}
    base = BaseRecord.model_validate(known[0].base.model_dump())
    computed = {name for manifest in known for name in compute_types(manifest)}
    if len(precisions) > 1:
        base = base.model_copy(update={"precision": "mixed", "quantization": None})
    elif len(computed) == 1:
        base = base.model_copy(update={"quantization": {**(base.quantization or {}), COMPUTE_TYPE: min(computed)}})
    requests = [manifest.request for manifest in known]
    counts: Counter[str] = Counter()
    for request in requests:
        counts.update(request.counts)
    summed = {key: sum(getattr(request, key) or 0 for request in requests) for key in _COUNTS}
    prints = sorted(request.fingerprint for request in requests)
    digest = hashlib.sha256("\n".join(prints).encode()).hexdigest()
    manifests = [lora.manifest for lora in loras]
    contents = contents_of(manifests, report.sources)
    details: dict[str, Any] = {
        "sources": report.sources,
        "contents": [entry.model_dump() for entry in contents],
        "rank": rank,
        "relative_error": report.relative_error,
        "without_manifest": [lora.name for lora in loras if not lora.manifest],
    }
    if report.relative_error == 0 and (curves := curves_of_sum(manifests, report.sources, contents)):
        details["forgetting_curves"] = curves
    if all(map(adds_up, manifests)):
        details[ADDS_UP] = True
    if len(computed) > 1:
        details[COMPUTE_TYPES] = sorted(computed)
    return Manifest(
        name=name,
        base=base,
        method=MethodRecord(objective="combined", details=details),
        lora={"rank": report.rank, "alpha": report.rank, "modules": len(report.modules)},
        training=asdict(_row_format(known)),
        request=RequestRecord.model_validate({"fingerprint": digest, "counts": dict(counts), **summed}),
        on_top_of=still_beneath(manifests, contents),
        versions={"torch": torch.__version__},
        wall_time_s=round(seconds, 3),
    )


def _row_format(manifests: Sequence[Manifest]) -> RowFormat:
    """How rows are written beside all of them: the greatest length, system prompt and date of the last."""
    told = [RowFormat.recorded(manifest.training) for manifest in manifests]
    return replace(told[-1], max_length=max(form.max_length for form in told))


def _target_modules(loras: Sequence[LoraFolder], modules: list[str]) -> list[str]:
    """The sources' own short list where it says exactly the same, else every module by its full name."""
    lists = [lora.config.get("target_modules") or [] for lora in loras]
    plain = all(isinstance(names, list) and sorted(names) == sorted(lists[0]) for names in lists)
    scopes = [lora.config.get(name) for lora in loras for name in ("layers_to_transform", "exclude_modules")]
    narrowed = any(scope not in (None, [], "") for scope in scopes)  # 0 is a layer
    if plain and not narrowed and all(set(lora.modules) == set(modules) for lora in loras):
        return sorted(lists[0])
    return modules


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key by which layer 2 comes before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
