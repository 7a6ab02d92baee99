"""A new adapter that keeps off the directions which the adapters beneath it read.

The A of a LoRA reads r directions of its module's input, and its update touches nothing else. Where the rows of a new
A are orthogonal to those of all earlier ones in the same module, what earlier adapters read passes the new one by. The
idea is O-LoRA's (Wang et al. 2023, arXiv 2310.14152, eq. 5-7) and O3's for unlearning (Gao et al. 2024, arXiv
2407.10223), who add a penalty on the product of the two; here A is projected after every optimizer step, so that it
holds exactly and has no coefficient to choose.
"""

from collections.abc import Sequence, Sized

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from asu_lora.config import ForgetConfig
from asu_lora.errors import SettingError
from asu_lora.models.frozen_adapters import NEW
from asu_lora.training.projection import Projection, lora_a

READ = 1e-6  # singular values below this share of the largest read nothing


def refuse_alone(config: ForgetConfig, beneath: Sized) -> None:
    """Refuse ``--orthogonal`` where no adapter stands beneath.

    Raises:
        SettingError: with the way out.
    """
    if config.orthogonal and not len(beneath):
        raise SettingError("There is nothing to be orthogonal to: name the adapters beneath with --on-top-of.")


class KeepOrthogonal(Projection):
    """Projects the new adapter's A onto what no earlier adapter reads: now, and after every optimizer step.

    Args:
        student: the base with the earlier adapters and the new one.
        names: PEFT's names of the earlier ones.

    Raises:
        SettingError: the earlier adapters leave too few directions of some module's input, or one is a DoRA.
    """

    def __init__(self, student: PeftModel, names: Sequence[str]):
        pairs: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
        for where, module in student.named_modules():
            if not isinstance(module, LoraLayer) or NEW not in module.lora_A:
                continue
            if dora := [name for name in names if name in module.lora_magnitude_vector]:
                raise SettingError(
                    f"The adapter '{dora[0]}' beneath is a DoRA: it rescales what is read in every "
                    "direction, and nothing can be orthogonal to it; train without --orthogonal."
                )
            earlier = [lora_a(module, name) for name in names if name in module.lora_A]
            if earlier:
                new = lora_a(module, NEW)
                basis = read_directions(torch.cat([weight.float() for weight in earlier]))
                if basis.shape[1] + new.shape[0] > new.shape[1]:
                    raise SettingError(
                        f"The adapters beneath read {basis.shape[1]} of the {new.shape[1]} directions "
                        f"of {where}: an orthogonal one of rank {new.shape[0]} has no room; fold them "
                        "to a lower rank first (adapters combine --rank, continual --consolidate-rank), "
                        "or train without orthogonality."
                    )
                pairs.append((new, basis))
        super().__init__(pairs)


@torch.no_grad()
def read_directions(rows: torch.Tensor) -> torch.Tensor:
    """An orthonormal basis, (n, k), of the span of ``rows``, (r, n)."""
    _, values, directions = torch.linalg.svd(rows, full_matrices=False)
    return directions[values > READ * values.max()].T.contiguous()
