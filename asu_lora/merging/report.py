"""What a merge did, and what rounding did to it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asu_lora.merging.rounding_error import ModuleDurability, ModuleRounding, overall


@dataclass
class MergeReport:
    """What was merged into what, and what rounding did to it.

    Attributes:
        adapters: (name, weight) in the order given.
        onto: ``quantized`` or ``original`` weights.
        onto_difference: ||quantised - original|| / ||original|| over the weights that NF4 touches; None where
            no adapter was trained on NF4 and the question does not arise.
        modules: rounding of every module that took an update (see :mod:`asu_lora.merging.rounding_error`).
        bytes: of tensors written.
        durability: of a durable merge, what is left undone of each module's update.
        residual_rank: of the residual adapter, 0 without one.
        four_bit: the kind of 4-bit numbers that are read or written: ``fp4`` where the base is stored so.
    """

    out: Path
    base: str
    adapters: list[tuple[str, float]]
    precision: str
    onto: str
    onto_difference: float | None = None
    modules: list[ModuleRounding] = field(default_factory=list, repr=False)
    shards: int = 0
    bytes: int = 0
    seconds: float = 0.0
    durability: list[ModuleDurability] = field(default_factory=list, repr=False)
    residual_rank: int = 0
    four_bit: str = "nf4"

    @property
    def written_as(self) -> str:
        """What the weights are stored in: ``precision``, but ``fp4`` where 4 bit was asked of a base in FP4."""
        return self.four_bit if self.precision == "nf4" else self.precision

    @property
    def overall(self) -> ModuleRounding:
        return overall(self.modules)

    def worst(self, count: int = 5) -> list[ModuleRounding]:
        """The modules that lost most of their update, most first."""
        return sorted(self.modules, key=lambda module: module.kept)[:count]

    def as_dict(self) -> dict[str, Any]:
        return {
            "out": str(self.out),
            "base": self.base,
            "precision": self.precision,
            "written_as": self.written_as,
            "onto": self.onto,
            "adapters": [{"name": name, "weight": weight} for name, weight in self.adapters],
            "onto_difference": self.onto_difference,
            "rounding": self.overall.as_dict(),
            "modules": [module.as_dict() for module in self.modules],
            "shards": self.shards,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
            "durability": [module.as_dict() for module in self.durability],
            "residual_rank": self.residual_rank,
        }
