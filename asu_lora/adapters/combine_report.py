"""What combining adapters gave: ranks and errors, module by module."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class CombinedModule:
    """One module of the result.

    Attributes:
        rank: of the sum before truncation (the concatenated ranks).
        kept_rank: of the result.
        norm: Frobenius norm of the exact sum.
        relative_error: ||result - exact sum|| / ||exact sum|| (Frobenius); 0 where it is exact.
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
