"""How much of an update survives when the sum is rounded to the precision it is stored in.

With the base weight W, the update D, R(.) the rounding to the stored precision and <.,.> the sum of products:

- *kept* = <R(W + D) - R(W), D> / <D, D>: the share of the update, along its own direction, that is still
  there after rounding. 1: all of it; 0: none (every entry was less than half a step, and fell back); *lost*
  is 1 - kept.
- *error* = ||R(W + D) - (W + D)|| / ||D||: what rounding changed, measured against the update. Above 1,
  rounding moved the weights further than the adapter did.

The two differ: rounding errors of random sign leave *kept* near 1 and can still drown the update in noise.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch


@dataclass
class ModuleRounding:
    """Sums over one module's weight, gathered block by block; norms are Frobenius norms.

    Attributes:
        module: in the base.
        update: ||D||^2.
        change: ||R(W + D) - (W + D)||^2.
        along: <R(W + D) - R(W), D>.
    """

    module: str
    update: float = 0.0
    change: float = 0.0
    along: float = 0.0

    def add(self, update: float, change: float, along: float) -> None:
        """The sums over some rows more."""
        self.update += update
        self.change += change
        self.along += along

    def measure(self, delta: torch.Tensor, exact: torch.Tensor, rounded: torch.Tensor, before: torch.Tensor) -> None:
        """Add a whole weight: D, W + D, R(W + D) and R(W), all fp32 and of one shape."""
        flat, off = delta.reshape(-1), (rounded - exact).reshape(-1)
        self.add(
            torch.dot(flat, flat).item(),
            torch.dot(off, off).item(),
            torch.dot((rounded - before).reshape(-1), flat).item(),
        )

    @property
    def update_norm(self) -> float:
        return math.sqrt(self.update)

    @property
    def error(self) -> float:
        return math.sqrt(self.change / self.update) if self.update else 0.0

    @property
    def kept(self) -> float:
        return self.along / self.update if self.update else 1.0

    @property
    def lost(self) -> float:
        return 1.0 - self.kept

    def as_dict(self) -> dict[str, float | str]:
        return {
            "module": self.module,
            "update_norm": self.update_norm,
            "rounding_error_norm": math.sqrt(self.change),
            "kept": self.kept,
            "lost": self.lost,
            "error": self.error,
        }


@dataclass(frozen=True)
class ModuleDurability:
    """What is left undone of one module's update on the inputs looked at: mean ||(Q - T) x||^2 over the update's
    own mean ||D x||^2. 0: the layer does all that the adapter did to it; 1: as if there were no adapter.

    Attributes:
        nearest: of rounding W + D to nearest.
        durable: of the choices that were written.
        with_residual: of these with the residual adapter on; None without one.
        moved: share of the weights whose choice is not the base's.
    """

    module: str
    nearest: float
    durable: float
    with_residual: float | None
    moved: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def overall(modules: Iterable[ModuleRounding]) -> ModuleRounding:
    """The same for all modules taken as one long vector."""
    total = ModuleRounding("all modules")
    for module in modules:
        total.add(module.update, module.change, module.along)
    return total
