"""How far adapters read and write the same directions: what their weights alone say of serving them together.

A module's update is D = scaling B A: A (r, in) reads the input, B (out, r) writes the output. Of two updates D and E:

    read      <D'D, E'E> / (|D'D| |E'E|)      0: no direction is read by both; 1: the same ones, as strongly
    write     <DD', EE'> / (|DD'| |EE'|)      the same of the outputs
    cosine    <D, E> / (|D| |E|)              1: the same update; -1: each undoes the other
    alignment cosine / sqrt(read write)       whether what both read and write is changed the same way

All follow from r x r products of the factors, so that no (out, in) matrix is made. Adapters trained with one seed share
the start of A and read alike whatever they learned; alignment takes that out.

What the weights can't say is whether what is kept moves: adapters that were trained to add up (``keep_off``,
``retain_dose``) align as others do and spoil nothing. Their manifests tell, and so they do of an adapter that was
trained on top of another. For the rest alignment predicts coarsely: docs/results/adapters_check.md.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asu_lora.adapters.additive import adds_up
from asu_lora.adapters.inner_products import scaled_factors
from asu_lora.adapters.lora_folder import LoraFolder
from asu_lora.adapters.manifest import fingerprint_of
from asu_lora.adapters.one_base import read_loras
from asu_lora.errors import SettingError

if TYPE_CHECKING:
    import torch

    Factors = tuple[torch.Tensor, torch.Tensor]

ALIGNED = 0.35  # alignment from which a pair is said to interfere
SHARED = 0.01  # sqrt(read write) below which there is nothing that could
FAR = 4.0  # norm of a sum, over its largest adapter's: so far doses go in training, and beyond what is kept suffers
SAME = 0.8  # cosine from which two adapters are all but one update
CANCELLED = 1e-6  # norm of a sum, over that of its largest adapter, that is rounding alone


@dataclass(frozen=True)
class ModuleOverlap:
    """Read, write and cosine of two adapters in one module; see the formulas above."""

    module: str
    read: float
    write: float
    cosine: float


@dataclass(frozen=True)
class PairOverlap:
    """Two adapters of a set, over all modules that both change.

    Attributes:
        first, second: their names.
        read, write, cosine: as above, of all modules together: sums of the products over sums of the norms.
        modules: the same module by module, the largest cosine first.
        related: one of them was trained on top of the other, or of an adapter in it, and knows it.
        additive: both were trained to add up with others.
        twice: both hold one adapter: they are sums of it, or one is a sum and the other that adapter.
    """

    first: str
    second: str
    read: float
    write: float
    cosine: float
    modules: tuple[ModuleOverlap, ...]
    related: bool
    additive: bool
    twice: bool

    @property
    def alignment(self) -> float:
        """Cosine over sqrt(read write); 0 where nothing is shared."""
        shared = math.sqrt(self.read * self.write)
        return self.cosine / shared if shared >= SHARED else 0.0

    @property
    def interferes(self) -> bool:
        """The prediction: together they spoil what each of them keeps."""
        known = self.related or self.additive
        return self.made_twice or self.cosine >= SAME or (not known and self.alignment >= ALIGNED)

    @property
    def made_twice(self) -> bool:
        """Whether both add what they share; a negative weight takes it back."""
        return self.twice and self.cosine > 0

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self) | {"alignment": self.alignment, "interferes": self.interferes}


@dataclass(frozen=True)
class SetOverlap:
    """Adapters that are to be active together.

    Attributes:
        names, weights: of the adapters.
        norms: Frobenius norm of each one's update over all modules, its weight included.
        sum_norm: of their sum. Updates that share nothing give the root of the summed squares.
        pairs: every two of them, the highest alignment first.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    norms: tuple[float, ...]
    sum_norm: float
    pairs: tuple[PairOverlap, ...]

    @property
    def growth(self) -> float:
        """Norm of the sum over that of updates that share nothing: 1 to sqrt(number of adapters)."""
        apart = math.sqrt(sum(norm**2 for norm in self.norms))
        return self.sum_norm / apart if apart else 0.0

    @property
    def interfering(self) -> tuple[PairOverlap, ...]:
        return tuple(pair for pair in self.pairs if pair.interferes)

    @property
    def idle(self) -> tuple[str, ...]:
        """Adapters whose update is zero in every module."""
        return tuple(name for name, norm in zip(self.names, self.norms, strict=True) if norm == 0)

    def changes_nothing(self) -> str | None:
        """One sentence where an adapter, or their sum, leaves the base as it is; None where all change it."""
        if self.idle:
            first, more = self.idle[0], len(self.idle) - 1
            others = (" (nor does 1 other)" if more == 1 else f" (nor do {more} others)") if more else ""
            if self.weights[self.norms.index(0)] == 0:
                return f"the adapter '{first}' changes nothing{others}, because its weight is 0: leave it out."
            return (
                f"the adapter '{first}' changes nothing{others}: its update is zero in every module, as before any "
                "training; train it anew, or leave it out."
            )
        if self.sum_norm <= CANCELLED * max(self.norms):
            return "these adapters undo each other: at these weights their sum changes nothing of the base."
        return None

    def advice(self) -> str | None:
        """One sentence on the worst pair, or on the size of the sum, and what to do; None where nothing speaks against
        the set."""
        if not self.interfering:
            return self._too_large()
        pair = next((pair for pair in self.interfering if pair.made_twice), self.interfering[0])
        if pair.made_twice and pair.cosine < SAME:
            return (
                f"'{pair.first}' and '{pair.second}' hold the same adapter, which acts twice then: leave one of them "
                "out."
            )
        if pair.cosine >= SAME:
            return (
                f"'{pair.first}' and '{pair.second}' are all but the same update (cosine {pair.cosine:.2f}), so it is "
                "made twice: leave one of them out."
            )
        others = len(self.interfering) - 1
        more = f" (and {others} other pair{'s' * (others > 1)})" if others else ""
        return (
            f"'{pair.first}' and '{pair.second}'{more} change what both read the same way (alignment "
            f"{pair.alignment:.2f}), so together they may spoil what is kept: see 'asu-lora adapters check' with "
            f"--retain, or train one on top of the other."
        )

    def _too_large(self) -> str | None:
        times = self.sum_norm / max(self.norms) if any(self.norms) else 0.0
        if times <= FAR:
            return None
        return (
            f"together these adapters are {times:.1f} times as large as the largest of them, and beyond {FAR:g} times "
            "what is kept suffers: measure it with 'asu-lora adapters check' and --retain, or train one adapter for "
            "several requests."
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "adapters": [
                {"name": name, "weight": weight, "norm": norm}
                for name, weight, norm in zip(self.names, self.weights, self.norms, strict=True)
            ],
            "sum_norm": self.sum_norm,
            "growth": self.growth,
            "changes_nothing": self.changes_nothing(),
            "pairs": [pair.as_dict() for pair in self.pairs],
            "advice": self.advice(),
        }


def overlap(folders: Sequence[str | Path], weights: Sequence[float]) -> SetOverlap:
    """Compare adapters pair by pair, from their weights and manifests alone.

    Args:
        folders: PEFT LoRA folders of one base, at least one.
        weights: one a folder.

    Raises:
        AdapterError: a folder that is no plain LoRA, or adapters of different bases or sizes.
        SettingError: not as many weights as folders.
    """
    if not folders or len(folders) != len(weights):
        raise SettingError(f"There are {len(folders)} adapters and {len(weights)} weights: give each its own.")
    loras = read_loras(folders)
    sums = _Sums(len(loras))
    for module in sorted({name for lora in loras for name in lora.modules}):
        sums.add(
            module,
            {at: scaled_factors(lora, module, weights[at]) for at, lora in enumerate(loras) if module in lora.modules},
        )
    beneath, inside = [_beneath(lora) for lora in loras], [_inside(lora) for lora in loras]
    names = _names(loras)
    pairs = [
        sums.pair(
            (i, j),
            names,
            related=bool(inside[i] & beneath[j] or inside[j] & beneath[i]),
            additive=adds_up(loras[i].manifest) and adds_up(loras[j].manifest),
            twice=bool(inside[i] & inside[j]),
        )
        for i, j in combinations(range(len(loras)), 2)
    ]
    total = sum(sums.products.values()) + sum(value for (i, j), value in sums.products.items() if i != j)
    return SetOverlap(
        tuple(names),
        tuple(map(float, weights)),
        tuple(math.sqrt(max(sums.products[at, at], 0.0)) for at in range(len(loras))),
        math.sqrt(max(total, 0.0)),
        tuple(sorted(pairs, key=lambda pair: -pair.alignment)),
    )


class _Sums:
    """Products of every two adapters, added up over modules."""

    def __init__(self, count: int):
        keys = [(i, j) for i in range(count) for j in range(i, count)]
        self.products, self.reads, self.writes = ({key: 0.0 for key in keys} for _ in range(3))
        self.modules: dict[tuple[int, int], list[ModuleOverlap]] = {key: [] for key in keys}

    def add(self, module: str, factors: "dict[int, Factors]") -> None:
        """Add one module: {adapter: (A (r, in), B (out, r) with scaling and weight)}."""
        found = {(i, j): _products(factors[i], factors[j]) for i in factors for j in factors if i <= j}
        for key, (product, read, write) in found.items():
            self.products[key] += product
            self.reads[key] += read
            self.writes[key] += write
        for (i, j), both in found.items():
            if i != j:
                cosine, read, write = (_share(both[at], found[i, i][at], found[j, j][at]) for at in range(3))
                self.modules[i, j].append(ModuleOverlap(module, read, write, cosine))

    def pair(self, at: tuple[int, int], names: Sequence[str], **known: bool) -> PairOverlap:
        """The pair's overlap over all modules, with what is known of the two otherwise."""
        i, j = at
        cosine, read, write = (
            _share(sums[i, j], sums[i, i], sums[j, j]) for sums in (self.products, self.reads, self.writes)
        )
        modules = tuple(sorted(self.modules[i, j], key=lambda found: -found.cosine))
        return PairOverlap(names[i], names[j], read, write, cosine, modules, **known)


def _products(one: "Factors", other: "Factors") -> tuple[float, float, float]:
    """<D, E>, <D'D, E'E> and <DD', EE'> of D = B_1 A_1 and E = B_2 A_2, by r x r matrices, in fp64.

    The last two are never negative, but by rounding, where an update is a sum whose parts cancel out.
    """
    (a1, b1), (a2, b2) = one, other
    reads, writes = a1 @ a2.T, b1.T @ b2  # (r1, r2)
    return (
        (writes * reads).sum().item(),
        max(((b1.T @ b1 @ reads) * (reads @ (b2.T @ b2))).sum().item(), 0.0),
        max(((a1 @ a1.T @ writes) * (writes @ (a2 @ a2.T))).sum().item(), 0.0),
    )


def _share(product: float, one: float, other: float) -> float:
    """A product over the root of the two squares; 0 where an update is nothing."""
    return product / math.sqrt(one * other) if one > 0 and other > 0 else 0.0


def _beneath(lora: LoraFolder) -> set[str]:
    """Fingerprints of the adapters that this one was trained on top of."""
    return {below.fingerprint for below in lora.manifest.on_top_of} if lora.manifest else set()


def _inside(lora: LoraFolder) -> set[str]:
    """Fingerprints of the adapter and of those that it is a sum of."""
    held = lora.manifest.method.contents() if lora.manifest else []
    return {fingerprint_of(lora.path), *(entry.fingerprint for entry in held if entry.weight)}


def _names(loras: Sequence[LoraFolder]) -> list[str]:
    """Their names; the paths of different folders that share one, as PEFT's ``adapter`` often does."""
    paths = {name: {lora.path.resolve() for lora in loras if lora.name == name} for name in (x.name for x in loras)}
    return [lora.name if len(paths[lora.name]) == 1 else str(lora.path) for lora in loras]
