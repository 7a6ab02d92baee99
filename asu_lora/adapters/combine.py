"""Several adapters as one: their weighted sum as a single plain PEFT LoRA.

With the updates scaling_i B_i A_i and the weights w_i, sum_i w_i scaling_i B_i A_i = [w_1 scaling_1 B_1, ...]
[A_1; ...]: concatenating ranks is exact, and never needs more than min(in, out) of them. A smaller rank is
:mod:`asu_lora.adapters.truncation`'s.
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
from asu_lora.adapters.truncation import Truncation, as_strong
from asu_lora.errors import AdapterError, SettingError
from asu_lora.files import discard


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
        keep_length: raise the weights until the truncated sum goes as far along each adapter's update as the exact
            one. It is no longer the nearest of its rank, but as strong: what is forgotten comes back less.

    Raises:
        AdapterError: a folder that can't be combined (see :func:`read_loras`), different bases, different
            sizes.
        SettingError: a weight or rank that makes no sense, or a folder that isn't empty.
    """
    started = time.perf_counter()
    out = Path(out_folder)
    loras = read_loras(folders)
    _check(loras, weights, out, rank)
    raised = _raised(loras, weights, rank) if keep_length and rank else torch.ones(len(loras), dtype=torch.double)
    tensors, read, modules = _summed(loras, weights, rank, raised)
    sources = [
        {"name": lora.name, "weight": weight, "fingerprint": fingerprint_of(lora.path)}
        for lora, weight in zip(loras, (torch.tensor(weights, dtype=torch.double) * raised).tolist(), strict=True)
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


def _raised(loras: Sequence[LoraFolder], weights: Sequence[float], rank: int) -> torch.Tensor:
    """What each adapter's weight is multiplied by, (adapters,), for a cut sum as strong as the exact one."""
    cut = torch.zeros(len(loras), len(loras), dtype=torch.double)
    whole = cut.clone()
    for module in {module for lora in loras for module in lora.modules}:
        a, b, of = _concatenated(module, loras, weights)
        products = Truncation.of(a, b, rank).along(of)
        cut, whole = cut + products[0], whole + products[1]
    return as_strong(cut, whole)


def _summed(
    loras: Sequence[LoraFolder], weights: Sequence[float], rank: int | None, raised: torch.Tensor
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], list[CombinedModule]]:
    """The sum's tensors, what it reads of its requests where weights may be fitted to it, and its modules."""
    tensors, read, modules = {}, {}, []
    own = _own_inputs(loras) if min(weights) > 0 else []
    for module in sorted({module for lora in loras for module in lora.modules}, key=natural):
        whole_a, whole_b, of = _concatenated(module, loras, weights)
        made, a, b = _cut(module, whole_a, whole_b, rank, of @ raised)
        modules.append(made)
        if own and made.relative_error == 0:
            read[module] = own_inputs_of_sum([each[module] for each in own if module in each], whole_b, b)
        embedding = any(lora.modules[module].embedding for lora in loras if module in lora.modules)
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


def _concatenated(
    module: str, loras: Sequence[LoraFolder], weights: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A (total, in), B (out, total) with weights and scalings folded in, and each adapter's ranks (total, adapters).

    Raises:
        SettingError: a weight that makes infinities, see :meth:`LoraFolder.weighted_factors`.
    """
    parts_a, parts_b, ranks = [], [], []
    for lora, weight in zip(loras, weights, strict=True):
        ranks.append(0)
        if module in lora.modules:
            a, b = lora.weighted_factors(module, weight)
            parts_a.append(a)
            parts_b.append(b)
            ranks[-1] = len(a)
    of = torch.eye(len(loras), dtype=torch.double).repeat_interleave(torch.tensor(ranks), dim=0)
    return torch.cat(parts_a, dim=0), torch.cat(parts_b, dim=1), of


def _cut(
    module: str, a: torch.Tensor, b: torch.Tensor, rank: int | None, raised: torch.Tensor
) -> tuple[CombinedModule, torch.Tensor, torch.Tensor]:
    """The module's sum, its factors (rank, in) and (out, rank): B A itself where the rank allows it.

    Args:
        raised: what each rank's weight is multiplied by, (total,).
    """
    total = a.shape[0]
    if rank is None and total > min(a.shape[1], b.shape[0]):
        rank = min(a.shape[1], b.shape[0])  # as many ranks as this hold any sum
    cut = Truncation.of(a, b, rank)
    norm, error = cut.sizes(raised)
    if rank is None or rank >= total:
        return CombinedModule(module, total, total, norm, error), a.contiguous(), (b * raised).float().contiguous()
    a, b = cut.factors(raised)
    return CombinedModule(module, total, len(a), norm, error), a, b
