"""Several adapters as one: their weighted sum as a single plain PEFT LoRA.

With the updates scaling_i B_i A_i and the weights w_i, sum_i w_i scaling_i B_i A_i = [w_1 scaling_1 B_1, ...]
[A_1; ...]: concatenating ranks is exact, and never needs more than min(in, out) of them. Truncating to rank R
keeps the R largest singular values of that sum, found from thin QR factors and one small SVD (Eckart-Young: no
other sum of rank R is nearer), so that a full (out, in) matrix is never made.
"""

import hashlib
import math
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from asu_lora.adapters.lora_folder import (
    EMBEDDING_FACTORS,
    LINEAR_FACTORS,
    PREFIX,
    LoraFolder,
    read_lora,
    refuse_different_bases,
)
from asu_lora.adapters.manifest import (
    WEIGHTS_NAME,
    BaseRecord,
    Manifest,
    MethodRecord,
    RequestRecord,
    StackedOn,
    fingerprint_of,
    write_manifest,
)
from asu_lora.adapters.model_card import write_model_card
from asu_lora.errors import AdapterError, SettingError
from asu_lora.files import discard

_COUNTS = ("forget_rows", "forget_tokens", "retain_rows", "retain_tokens", "skipped_rows", "cut_rows")


@dataclass(frozen=True)
class CombinedModule:
    """One module of the result.

    Attributes:
        rank: of the sum before truncation (the concatenated ranks).
        kept_rank: of the result.
        norm: Frobenius norm of the exact sum.
        relative_error: ||result - exact sum|| / ||exact sum|| (Frobenius); 0 where nothing was cut off.
    """

    module: str
    rank: int
    kept_rank: int
    norm: float
    relative_error: float


@dataclass(frozen=True)
class CombineReport:
    """What :func:`combine` made, from what, and how far it is from the exact sum."""

    path: Path
    sources: list[dict[str, Any]]
    modules: list[CombinedModule]

    @property
    def rank(self) -> int:
        return max(module.kept_rank for module in self.modules)

    @property
    def relative_error(self) -> float:
        """Of all modules together: sqrt(sum of squared errors / sum of squared norms)."""
        norm = sum(m.norm**2 for m in self.modules)
        return math.sqrt(sum((m.relative_error * m.norm) ** 2 for m in self.modules) / norm) if norm else 0.0

    def as_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "rank": self.rank,
            "relative_error": self.relative_error,
            "sources": self.sources,
            "modules": [asdict(module) for module in self.modules],
        }


def combine(
    folders: Sequence[str | Path],
    weights: Sequence[float],
    out_folder: str | Path,
    rank: int | None = None,
    name: str | None = None,
) -> CombineReport:
    """Write the weighted sum of adapters as one plain PEFT LoRA, with a manifest where they have manifests.

    Weights and scalings are folded into B, and alpha is the rank, so that the result has scaling 1 and
    weight 1.

    Args:
        folders: PEFT LoRA folders of one base; modules and ranks may differ.
        weights: one a folder; negative subtracts.
        out_folder: made here; must not hold anything yet.
        rank: truncate every module to at most this rank; None is exact.
        name: the result's name in its manifest, the folder's by default.

    Raises:
        AdapterError: a folder that can't be combined (see :func:`read_lora`), different bases, different
            sizes.
        SettingError: a weight or rank that makes no sense, or a folder that isn't empty.
    """
    started = time.perf_counter()
    out = Path(out_folder)
    loras = [read_lora(folder) for folder in folders]
    _check(loras, weights, out, rank)
    tensors: dict[str, torch.Tensor] = {}
    modules = []
    for module in sorted({module for lora in loras for module in lora.modules}, key=_natural):
        a, b, embedding = _concatenated(module, loras, weights)
        made, a, b = _truncated(module, a, b, rank)
        modules.append(made)
        suffixes = EMBEDDING_FACTORS if embedding else LINEAR_FACTORS
        tensors[PREFIX + module + suffixes[0]], tensors[PREFIX + module + suffixes[1]] = a, b
    sources = [
        {"name": lora.name, "weight": float(weight), "fingerprint": fingerprint_of(lora.path)}
        for lora, weight in zip(loras, weights, strict=True)
    ]
    report = CombineReport(out, sources, modules)
    try:
        _write(report, tensors, loras, name or out.name, rank, started)
    except OSError as error:
        discard(out)
        raise AdapterError(f"{out} can't be written: {error.strerror or error}.") from error
    except BaseException:
        discard(out)
        raise
    return report


def _check(loras: Sequence[LoraFolder], weights: Sequence[float], out: Path, rank: int | None) -> None:
    if not loras or len(loras) != len(weights):
        raise SettingError(f"There are {len(loras)} adapters and {len(weights)} weights: give each its own.")
    for lora, weight in zip(loras, weights, strict=True):
        if not math.isfinite(weight) or weight == 0:
            raise SettingError(
                f"The weight {weight} of the adapter '{lora.name}' makes no sense: it must "
                "be a number other than 0; leave the adapter out instead."
            )
    if rank is not None and rank < 1:
        raise SettingError(f"The rank must be 1 or more, not {rank}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingError(f"{out} exists already: choose another name.")
    refuse_different_bases(loras)
    for name in {name for lora in loras for name in lora.modules}:
        sizes = {
            (m.in_features, m.out_features, m.embedding): lora.name for lora in loras if (m := lora.modules.get(name))
        }
        if len(sizes) > 1:
            first, second = list(sizes.values())[:2]
            raise AdapterError(
                f"The adapters '{first}' and '{second}' give {name} different sizes: they can't belong to one base."
            )


def _concatenated(module: str, loras: Sequence[LoraFolder], weights: Sequence[float]):
    """A (sum of ranks, in), B (out, sum of ranks) with weights and scalings folded in, and whether it is an
    embedding's."""
    parts_a, parts_b, embedding = [], [], False
    for lora, weight in zip(loras, weights, strict=True):
        if module in lora.modules:
            a, b = lora.factors(module)
            parts_a.append(a)
            parts_b.append(b * (weight * lora.modules[module].scaling))
            embedding = lora.modules[module].embedding
    return torch.cat(parts_a, dim=0), torch.cat(parts_b, dim=1), embedding


def _truncated(module: str, a: torch.Tensor, b: torch.Tensor, rank: int | None):
    """The best rank-``rank`` approximation of B A as new factors, with its error, computed in fp64.

    B = Q_B R_B and A^T = Q_A R_A give B A = Q_B (R_B R_A^T) Q_A^T, whose singular values are those of the
    small matrix in the middle. Without a rank the sum is exact: no matrix has more singular values than min(in,
    out), so more ranks than that are folded into as many.
    """
    if rank is None and a.shape[0] > min(a.shape[1], b.shape[0]):
        rank = min(a.shape[1], b.shape[0])
    q_b, r_b = torch.linalg.qr(b.double())
    q_a, r_a = torch.linalg.qr(a.double().T)
    total = a.shape[0]
    if rank is None or rank >= total:
        norm = torch.linalg.norm(r_b @ r_a.T).item()
        return CombinedModule(module, total, total, norm, 0.0), a.contiguous(), b.contiguous()
    u, sigma, vt = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    kept = min(rank, len(sigma))
    norm, lost = torch.linalg.norm(sigma).item(), torch.linalg.norm(sigma[kept:]).item()
    root = sigma[:kept].sqrt()
    a = (root[:, None] * (vt[:kept] @ q_a.T)).float().contiguous()
    b = ((q_b @ u[:, :kept]) * root).float().contiguous()
    return CombinedModule(module, total, kept, norm, lost / norm if norm else 0.0), a, b


def _write(
    report: CombineReport,
    tensors: dict[str, torch.Tensor],
    loras: Sequence[LoraFolder],
    name: str,
    rank: int | None,
    started: float,
) -> None:
    from peft import LoraConfig
    from safetensors.torch import save_file

    report.path.mkdir(parents=True, exist_ok=True)
    save_file(tensors, report.path / WEIGHTS_NAME, metadata={"format": "pt"})
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
    config.target_modules = sorted(config.target_modules, key=_natural)
    config.save_pretrained(report.path)
    known = [lora.manifest for lora in loras if lora.manifest]
    if known:
        manifest = _manifest(report, loras, known, name, rank, time.perf_counter() - started)
        write_model_card(report.path, manifest)
        write_manifest(report.path, manifest)


def _target_modules(loras: Sequence[LoraFolder], modules: list[str]) -> list[str]:
    """The sources' own short list where it says exactly the same, else every module by its full name."""
    lists = [lora.config.get("target_modules") for lora in loras]
    plain = all(isinstance(names, list) and sorted(names) == sorted(lists[0]) for names in lists)
    narrowed = any(lora.config.get("layers_to_transform") or lora.config.get("exclude_modules") for lora in loras)
    if plain and not narrowed and all(set(lora.modules) == set(modules) for lora in loras):
        return sorted(lists[0])
    return modules


def _manifest(
    report: CombineReport,
    loras: Sequence[LoraFolder],
    known: list[Manifest],
    name: str,
    rank: int | None,
    seconds: float,
) -> Manifest:
    precisions = {manifest.base.precision for manifest in known}
    base = BaseRecord.model_validate(known[0].base.model_dump())
    if len(precisions) > 1:
        base = base.model_copy(update={"precision": "mixed", "quantization": None})
    inside = {source["fingerprint"] for source in report.sources}
    beneath = {
        below.fingerprint: below
        for manifest in known
        for below in manifest.on_top_of
        if below.fingerprint not in inside
    }
    requests = [manifest.request for manifest in known]
    counts: Counter[str] = Counter()
    for request in requests:
        counts.update(request.counts)
    summed = {key: sum(getattr(request, key) or 0 for request in requests) for key in _COUNTS}
    prints = sorted(request.fingerprint for request in requests)
    digest = hashlib.sha256("\n".join(prints).encode()).hexdigest()
    details = {
        "sources": report.sources,
        "rank": rank,
        "relative_error": report.relative_error,
        "without_manifest": [lora.name for lora in loras if not lora.manifest],
    }
    return Manifest(
        name=name,
        base=base,
        method=MethodRecord(objective="combined", details=details),
        lora={"rank": report.rank, "alpha": report.rank, "modules": len(report.modules)},
        request=RequestRecord(fingerprint=digest, counts=dict(counts), **summed),
        on_top_of=[StackedOn.model_validate(below.model_dump()) for below in beneath.values()],
        versions={"torch": torch.__version__},
        wall_time_s=round(seconds, 3),
    )


def _natural(name: str) -> list[Any]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
