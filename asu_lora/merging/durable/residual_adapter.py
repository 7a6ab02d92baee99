"""What rounding lost, as a small LoRA: a plain PEFT folder that goes onto the merged model."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import torch

from asu_lora.adapters.lora_folder import LINEAR_FACTORS, PREFIX
from asu_lora.adapters.manifest import WEIGHTS_NAME
from asu_lora.files import as_any_new_file

FOLDER = "residual-adapter"


def low_rank(lost: torch.Tensor, moment: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A (r, in) and B (out, r) with the least mean ||(lost - B A) x||^2, for inputs of second moment H (in, in).

    With H = L L^T this is the truncated SVD of lost L, multiplied by L^-1 on the right; the SVD is a randomised
    one (arXiv 0909.4061), since only a few singular vectors are wanted of a large matrix.
    """
    rank = min(rank, *lost.shape)
    root = torch.linalg.cholesky(moment)
    wide = min(rank + 8, *lost.shape)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)  # the same merge twice writes the same adapter
        left, sizes, right = torch.svd_lowrank(lost @ root, wide, niter=4)
    share = sizes[:rank].sqrt()
    a = torch.linalg.solve_triangular(root, (right[:, :rank] * share).T, upper=False, left=False)
    return a.contiguous(), (left[:, :rank] * share).contiguous()


@dataclass
class Residual:
    """Factors by module: A (r, in), B (out, r), fp32, with scaling 1."""

    factors: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def add(self, module: str, a: torch.Tensor, b: torch.Tensor) -> None:
        self.factors[module] = (a, b)

    def write(self, folder: Path, base: str) -> None:
        """Write a PEFT folder.

        Args:
            folder: made here.
            base: the merged model, as PEFT should look for it.
        """
        from peft import LoraConfig
        from safetensors.torch import save_file

        folder.mkdir()
        ranks = {module: a.shape[0] for module, (a, _) in self.factors.items()}
        highest = max(ranks.values())
        pattern = {f"^{re.escape(module)}": rank for module, rank in ranks.items() if rank != highest}
        save_file(
            {
                PREFIX + module + suffix: factor
                for module, pair in self.factors.items()
                for suffix, factor in zip(LINEAR_FACTORS, pair, strict=True)
            },
            folder / WEIGHTS_NAME,
            metadata={"format": "pt"},
        )
        as_any_new_file(folder / WEIGHTS_NAME)
        config = LoraConfig(
            r=highest,
            lora_alpha=highest,
            rank_pattern=pattern,
            alpha_pattern=dict(pattern),
            target_modules=list(ranks),
            task_type="CAUSAL_LM",
            inference_mode=True,
            base_model_name_or_path=base,
        )
        config.target_modules = sorted(ranks)
        config.save_pretrained(str(folder))
