"""Several adapters as one: their weighted sum as a single plain PEFT LoRA.

With the updates scaling_i B_i A_i and the weights w_i, sum_i w_i scaling_i B_i A_i = [w_1 scaling_1 B_1, ...]
[A_1; ...]: concatenating ranks is exact, and never needs more than min(in, out) of them. Truncating to rank R
keeps the R largest singular values of that sum, found from thin QR factors and one small SVD (Eckart-Young: no
other sum of rank R is nearer), so that a full (out, in) matrix is never made.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from asu_lora.adapters.combine_report import CombinedModule, CombineReport
from asu_lora.adapters.combined_folder import natural, write_combined
from asu_lora.adapters.lora_folder import LoraFolder, factor_names
from asu_lora.adapters.manifest import fingerprint_of
from asu_lora.adapters.one_base import read_loras
from asu_lora.adapters.own_inputs import own_inputs_of_sum, read_own_inputs
from asu_lora.adapters.tensor_names import EMBEDDING_FACTORS, LINEAR_FACTORS
from asu_lora.errors import AdapterError, SettingError
from asu_lora.files import discard

FACTORS_B = (LINEAR_FACTORS[1], EMBEDDING_FACTORS[1])


def combine(
    folders: Sequence[str | Path],
    weights: Sequence[float],
    out_folder: str | Path,
    rank: int | None = None,
    name: str | None = None,
    *,
    keep_length: bool = False,
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
        keep_length: raise all weights alike, until the truncated sum goes as far along the exact one as that itself.
            It is no longer the nearest of its rank, but as strong: what is forgotten comes back less.

    Raises:
        AdapterError: a folder that can't be combined (see :func:`read_loras`), different bases, different
            sizes.
        SettingError: a weight or rank that makes no sense, or a folder that isn't empty.
    """
    started = time.perf_counter()
    out = Path(out_folder)
    loras = read_loras(folders)
    _check(loras, weights, out, rank)
    tensors, read, modules = _summed(loras, weights, rank)
    stronger = _stronger(modules) if keep_length else 1.0
    if stronger != 1:
        modules = [made.times(stronger) for made in modules]
        tensors = {key: value * stronger if key.endswith(FACTORS_B) else value for key, value in tensors.items()}
    sources = [
        {"name": lora.name, "weight": float(weight) * stronger, "fingerprint": fingerprint_of(lora.path)}
        for lora, weight in zip(loras, weights, strict=True)
    ]
    report = CombineReport(out, sources, modules)
    try:
        write_combined(report, tensors, loras, read, name=name or out.name, rank=rank, started=started)
    except OSError as error:
        discard(out)
        raise AdapterError(f"{out} can't be written: {error.strerror or error}.") from error
    except BaseException:
        discard(out)
        raise
    return report


def _summed(
    loras: Sequence[LoraFolder], weights: Sequence[float], rank: int | None
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], list[CombinedModule]]:
    """The sum's tensors, what it reads of its requests where weights may be fitted to it, and its modules."""
    tensors, read, modules = {}, {}, []
    own = _own_inputs(loras) if min(weights) > 0 else []
    for module in sorted({module for lora in loras for module in lora.modules}, key=natural):
        whole_a, whole_b, embedding = _concatenated(module, loras, weights)
        made, a, b = _truncated(module, whole_a, whole_b, rank)
        modules.append(made)
        if own and made.relative_error == 0:
            read[module] = own_inputs_of_sum([each[module] for each in own if module in each], whole_b, b)
        name_a, name_b = factor_names(module, embedding)
        tensors[name_a], tensors[name_b] = a, b
    return tensors, read if len(read) == len(modules) else {}, modules


def _own_inputs(loras: Sequence[LoraFolder]) -> list[dict[str, torch.Tensor]]:
    """What each adapter reads of its request; empty where one doesn't tell, or its file is damaged."""
    try:
        own = [read_own_inputs(lora) for lora in loras]
    except AdapterError:
        return []
    return own if all(own) else []


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


def _stronger(modules: Sequence[CombinedModule]) -> float:
    """|W|^2 / |W_R|^2 over all modules. W_R projects W, so <W_R, W> = |W_R|^2, and times this it is |W|^2."""
    whole = sum(module.norm**2 for module in modules)
    kept = sum(module.norm**2 * (1 - module.relative_error**2) for module in modules)
    return whole / kept if kept else 1.0


def _concatenated(
    module: str, loras: Sequence[LoraFolder], weights: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor, bool]:
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


def _truncated(
    module: str, a: torch.Tensor, b: torch.Tensor, rank: int | None
) -> tuple[CombinedModule, torch.Tensor, torch.Tensor]:
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
