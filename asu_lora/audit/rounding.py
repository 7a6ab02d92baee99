"""The audited weights at other precisions, in memory: merged and then rounded, or an adapter beside a rounded base.

With the base weight W, the update D and the rounding R of a precision, *merged* is R(W + D) and *beside* is R(W) + D.
An adapter that was trained on an NF4 base belongs to that base: W is then what NF4 made of it, as in a merge.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from asu_lora.adapters.lora_folder import LoraFolder, read_adapter
from asu_lora.audit.gguf_blocks import to_q4_0, to_q4_k
from asu_lora.bases.source import BaseSource
from asu_lora.merging.nf4.quantization import Quantization, seen_through_nf4
from asu_lora.models.decoder import decoder_and_layers
from asu_lora.models.loading import LoadedBase, load_base


def to_int8(weight: torch.Tensor) -> torch.Tensor:
    """Rows scaled by their largest entry to -127 .. 127, as LLM.int8 holds weights (arXiv 2208.07339)."""
    scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    return (weight / scale).round() * scale


def to_nf4(weight: torch.Tensor) -> torch.Tensor:
    """bitsandbytes' NF4 with double quantisation, as ``--precision nf4`` holds weights."""
    return seen_through_nf4(weight, Quantization())


def to_bf16(weight: torch.Tensor) -> torch.Tensor:
    """Every weight to the nearest of bfloat16."""
    return weight.to(torch.bfloat16).float()


ROUNDINGS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "fp32": lambda weight: weight,
    "bf16": to_bf16,
    "int8": to_int8,
    "q4_0": to_q4_0,
    "q4_k": to_q4_k,
    "nf4": to_nf4,
}


@dataclass(frozen=True)
class Way:
    """One way to hold the weights: ``nf4 merged``, ``nf4 beside``, ..."""

    precision: str
    merged: bool

    @property
    def name(self) -> str:
        return f"{self.precision}_{'merged' if self.merged else 'beside'}"


@dataclass(frozen=True)
class AuditedWeights:
    """What the audited weights are made of.

    Attributes:
        source: the base's checkpoint, or the merged folder.
        adapters: folders and weights; none where weights are merged already.
    """

    source: BaseSource
    adapters: Sequence[tuple[Path, float]]
    device: str | None = None
    trust_remote_code: bool = False

    @property
    def onto_nf4(self) -> bool:
        """Whether the adapters were trained on an NF4 base, by their manifests."""
        known = [read_adapter(folder).manifest for folder, _ in self.adapters]
        return any(manifest is not None and manifest.base.precision == "nf4" for manifest in known)

    @contextmanager
    def at(self, ways: Sequence[Way]) -> Iterator[Iterator[tuple[Way, LoadedBase]]]:
        """Inside, the model in one way after the other: one model in memory, its weights written anew each time.

        Raises:
            BaseModelError: the weights are stored in 4 bit, or there is no room for them in fp32.
        """
        loaded = load_base(self.source, "fp32", self.device, trust_remote_code=self.trust_remote_code)
        yield self._walk(loaded, ways)

    @torch.no_grad()
    def _walk(self, loaded: LoadedBase, ways: Sequence[Way]) -> Iterator[tuple[Way, LoadedBase]]:
        linear = {
            name: module
            for layer in [decoder_and_layers(loaded.model)[1]]
            for name, module in loaded.model.named_modules()
            if isinstance(module, torch.nn.Linear) and any(module is inner for inner in layer.modules())
        }
        ground_of = to_nf4 if self.onto_nf4 else torch.clone
        grounds = {  # made once for all ways: NF4 of 135M parameters takes 14 core-seconds
            name: ground_of(module.weight.detach().float().cpu()).to(module.weight) for name, module in linear.items()
        }
        names = {name for name, _ in loaded.model.named_modules()}
        loras = [(read_adapter(folder).aligned_to(names), weight) for folder, weight in self.adapters]
        for way in ways:
            rounding = ROUNDINGS[way.precision]
            for name, module in linear.items():
                ground = grounds[name].float()
                update = _update(loras, name, ground)
                held = rounding((ground + update).cpu()) if way.merged else rounding(ground.cpu()) + update.cpu()
                module.weight.copy_(held.to(module.weight))
            yield way, loaded


def _update(loras: Sequence[tuple[LoraFolder, float]], name: str, like: torch.Tensor) -> torch.Tensor:
    """The adapters' updates of one module, (out, in) in fp32."""
    total = torch.zeros_like(like, dtype=torch.float32)
    for lora, weight in loras:
        if name in lora.modules:
            a, b = lora.factors(name)
            total += weight * lora.modules[name].scaling * (b @ a).to(total)
    return total
