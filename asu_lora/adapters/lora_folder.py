"""A PEFT LoRA folder as factors, module by module: what it adds to which weight, and with what scaling.

LoRA (arXiv 2106.09685) adds ``scaling * B A`` to a weight, A of shape (r, in), B of shape (out, r). Every tensor of
the file is accounted for, or the adapter is refused by name: nothing is left out in silence.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asu_lora.adapters.adapter_config import more_than_lora, read_adapter_config, refuse_unservable
from asu_lora.adapters.compute_types import compute_types
from asu_lora.adapters.manifest import WEIGHTS_NAME, Manifest, has_manifest, read_manifest
from asu_lora.adapters.tensor_names import EMBEDDING_FACTORS, LINEAR_FACTORS, PREFIX, aligned, canonical, module_of
from asu_lora.errors import AdapterError, SettingError
from asu_lora.safetensors_header import TensorInfo, read_header

if TYPE_CHECKING:
    import torch

_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
FP16_MOST, FP32_ROOT = 65504.0, 1.8e19  # the largest number of fp16; the root of the largest of fp32
_PICKLES = (".bin", ".pt", ".pth", ".pkl")


@dataclass(frozen=True)
class LoraModule:
    """One module an adapter changes.

    Attributes:
        name: of the module in the base, such as ``model.layers.0.self_attn.q_proj``.
        rank: r.
        alpha: the numerator of the scaling.
        scaling: alpha/r, or alpha/sqrt(r) for rsLoRA.
        in_features, out_features: the sizes of A (r, in) and B (out, r).
        embedding: an update of an embedding, whose weight (in, out) takes the transpose of B A.
    """

    name: str
    rank: int
    alpha: float
    scaling: float
    in_features: int
    out_features: int
    embedding: bool


@dataclass(frozen=True)
class LoraFolder:
    """A checked LoRA folder; its tensors stay on the disk until :meth:`factors` asks for them.

    Attributes:
        modules: what it changes by low-rank factors, by the name of the module.
        tensors: every tensor of the file by its canonical name, as PEFT writes it; ``TensorInfo.name`` is the file's.
            Copies of the base's own weights are none of them.
        copies: by the name of the parameter, what PEFT's ``save_embedding_layers`` puts beside a LoRA: weights of the
            base, which whoever serves it must find unchanged (:mod:`asu_lora.models.copied_weights`).
    """

    path: Path
    config: dict[str, Any] = field(repr=False)
    manifest: Manifest | None = field(repr=False)
    modules: dict[str, LoraModule] = field(repr=False)
    tensors: dict[str, TensorInfo] = field(repr=False)
    copies: dict[str, TensorInfo] = field(repr=False, default_factory=dict)

    @property
    def name(self) -> str:
        return self.manifest.name if self.manifest else self.path.name

    @property
    def base_id(self) -> str | None:
        """The base by name: from the manifest, or what PEFT wrote; None where neither says."""
        return self.manifest.base.id if self.manifest else self.config.get("base_model_name_or_path") or None

    def aligned_to(self, there: Collection[str]) -> "LoraFolder":
        """The same with the module names of a base that nests its decoder otherwise.

        Args:
            there: the base's modules. Names that fit none of them stay as they are.

        Raises:
            AdapterError: two of its modules are one there.
        """
        places = aligned(sorted({module_of(key) for key in self.tensors}), there)
        tensors: dict[str, TensorInfo] = {}
        for key, info in self.tensors.items():
            module = module_of(key)
            moved = PREFIX + places[module] + key.removeprefix(PREFIX + module)
            if moved in tensors:
                raise AdapterError(
                    f"The adapter '{self.path.name}' can't be used: {info.name} is there under two names."
                )
            tensors[moved] = info
        modules = {places[name]: replace(module, name=places[name]) for name, module in self.modules.items()}
        return replace(self, modules=modules, tensors=tensors)

    def factors(self, module: str) -> "tuple[torch.Tensor, torch.Tensor]":
        """A (r, in) and B (out, r) of one module in fp32, scaling not applied.

        Raises:
            AdapterError: they can't be read, or hold NaN or infinities.
        """
        import torch

        read = []
        try:
            # by the offsets that are known: a reader of the whole format would parse the header for every module
            with (self.path / WEIGHTS_NAME).open("rb") as file:
                for name in factor_names(module, self.modules[module].embedding):
                    info = self.tensors[name]
                    file.seek(info.start)
                    data = bytearray(file.read(info.end - info.start))
                    if len(data) < info.end - info.start:
                        raise AdapterError(
                            f"The weights of the adapter '{self.name}' were cut off while they were read."
                        )
                    tensor = torch.frombuffer(data, dtype=getattr(torch, _FLOATS[info.dtype])).view(info.shape).float()
                    if not torch.isfinite(tensor).all():
                        raise AdapterError(
                            f"The adapter '{self.name}' holds NaN or infinities in "
                            f"{name.removeprefix(PREFIX)}: it is broken, train it anew."
                        )
                    read.append(tensor)
        except OSError as error:
            raise AdapterError(f"The weights of the adapter '{self.name}' can't be read: {error.strerror}.") from error
        return read[0], read[1]

    def weighted_factors(self, module: str, weight: float) -> "tuple[torch.Tensor, torch.Tensor]":
        """A (r, in) and B (out, r) in fp32, weight and scaling in B.

        Raises:
            AdapterError: as :meth:`factors`.
            SettingError: a weight with which no layer could compute: norms square what comes out of it, in fp32, and
                layers in fp16 hold it as it is.
        """
        a, b = self.factors(module)
        b = b * (weight * self.modules[module].scaling)
        size, most = float(a.norm()) * float(b.norm()), FP16_MOST if self._in_fp16() else FP32_ROOT
        if not size <= most:
            raise SettingError(
                f"The weight {weight:g} of the adapter '{self.name}' is too large: with its {module} the base would "
                "compute infinities; give it a smaller one."
            )
        return a, b

    def _in_fp16(self) -> bool:
        known = self.manifest
        return known is not None and (known.base.precision == "fp16" or "float16" in compute_types(known))


def read_adapter(folder: str | Path) -> LoraFolder:
    """Read config, manifest (where there is one) and tensor shapes of an adapter that can be served.

    Raises:
        AdapterError: it is no LoRA folder, its tensors are damaged, missing, unknown or of the wrong shape, or it
            changes the base itself; the sentence names what.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise AdapterError(f"There is no adapter folder {folder}.")
    config = read_adapter_config(folder)
    if not (folder / WEIGHTS_NAME).is_file():
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
        hint = (
            f": {pickles[0]} is a pickle and pickles are never opened, save it anew with safetensors" if pickles else ""
        )
        raise AdapterError(f"{folder} has no {WEIGHTS_NAME}{hint}.")
    refuse_unservable(folder.name, config)
    manifest = read_manifest(folder) if has_manifest(folder) else None
    tensors: dict[str, TensorInfo] = {}
    for key, info in read_header(folder / WEIGHTS_NAME).items():
        if (name := canonical(key)) in tensors:
            raise AdapterError(f"The adapter '{folder.name}' can't be used: it holds {key} twice.")
        tensors[name] = info
    copies = {name: info for name, info in tensors.items() if _is_copy(name, info, config)}
    tensors = {name: info for name, info in tensors.items() if name not in copies}
    modules = _modules(folder, config, tensors)
    return LoraFolder(
        folder, config, manifest, modules, tensors, {n.removeprefix(PREFIX): i for n, i in copies.items()}
    )


def read_lora(folder: str | Path, copies: bool = False) -> LoraFolder:
    """:func:`read_adapter` for an adapter that is ``scaling * B A`` and no more, so that it can be added up.

    Args:
        copies: whether the caller looks after copies of the base's weights; else an adapter with such is refused.

    Raises:
        AdapterError: as :func:`read_adapter` does, or because it is more than a LoRA.
    """
    lora = read_adapter(folder)
    name = lora.path.name
    if why := more_than_lora(lora.config):
        raise AdapterError(f"The adapter {name} can't be added up or merged: {why}.")
    if lora.copies and not copies:
        raise AdapterError(
            f"The adapter '{name}' can't be used: beside its LoRA it carries the tensor "
            f"{next(iter(lora.copies.values())).name.removeprefix(PREFIX)}, which is no part of one and may be "
            "changed; save it anew with save_embedding_layers=False."
        )
    for module in lora.modules:
        shapes = [lora.tensors[key].shape for key in factor_names(module, lora.modules[module].embedding)]
        if any(len(shape) != 2 for shape in shapes):
            raise AdapterError(
                f"The adapter {name} changes {module}, which is no linear layer or "
                f"embedding (its factors have the shapes {list(shapes[0])} and {list(shapes[1])})."
            )
    return lora


def factor_names(module: str, embedding: bool) -> tuple[str, str]:
    """The canonical names of a module's A and B."""
    a, b = EMBEDDING_FACTORS if embedding else LINEAR_FACTORS
    return PREFIX + module + a, PREFIX + module + b


def match_pattern(patterns: Iterable[str], module: str) -> str | None:
    """The first of the rank or alpha patterns that fits a module's name, by PEFT's rule."""
    try:
        return next((pattern for pattern in patterns if re.match(rf"(.*\.)?({pattern})$", module)), None)
    except re.error as error:
        raise AdapterError(f"A rank or alpha pattern is no regular expression: {error}.") from error


def _modules(folder: Path, config: dict[str, Any], tensors: dict[str, TensorInfo]) -> dict[str, LoraModule]:
    """Pair the file's tensors into modules, check every shape against the config, and know every other tensor."""
    found: dict[str, tuple[str, str]] = {}
    for key, info in tensors.items():
        if info.dtype not in _FLOATS:
            raise AdapterError(f"The adapter {folder.name} holds {info.name} as {info.dtype}, not as floats.")
        suffixes = next((pair for pair in (LINEAR_FACTORS, EMBEDDING_FACTORS) if key.endswith(pair)), None)
        if suffixes is not None:
            found[key.removeprefix(PREFIX).removesuffix(suffixes[0]).removesuffix(suffixes[1])] = suffixes
        elif not _announced(key, config):
            raise AdapterError(
                f"The adapter '{folder.name}' can't be used: it carries the tensor {info.name}, which is no part of a "
                "LoRA; if that is the base's own weight, save the adapter anew with save_embedding_layers=False."
            )
    if not found:
        raise AdapterError(f"The adapter {folder.name} holds no LoRA factors at all.")
    return {module: _module(folder, config, tensors, module, suffixes) for module, suffixes in found.items()}


def _is_copy(key: str, info: TensorInfo, config: Mapping[str, Any]) -> bool:
    """Whether a tensor is called as a weight of the base is."""
    plain = key.endswith((".weight", ".bias")) and ".lora_" not in key
    return plain and info.dtype in _FLOATS and not _announced(key, config)


def _announced(key: str, config: Mapping[str, Any]) -> bool:
    """Whether the config says that there is a tensor of this kind beside the factors."""
    end = key.rpartition(".lora_")[2]
    if end in ("magnitude_vector", "magnitude_vector.weight"):
        return bool(config.get("use_dora"))
    if end == "B.bias":
        return bool(config.get("lora_bias"))
    if key.endswith("trainable_tokens_delta"):
        return bool(config.get("trainable_token_indices"))
    saved = config.get("modules_to_save") or ()
    parts = key.removeprefix(PREFIX).split(".")
    return any(
        ".".join(parts[:end]).endswith(f".{name}") or ".".join(parts[:end]) == name
        for name in saved
        for end in range(1, len(parts))
    )


def _module(
    folder: Path, config: dict[str, Any], tensors: dict[str, TensorInfo], module: str, suffixes: tuple[str, str]
) -> LoraModule:
    missing = next((suffix for suffix in suffixes if PREFIX + module + suffix not in tensors), None)
    if missing:
        raise AdapterError(f"The adapter {folder.name} is incomplete: {module}{missing} is missing.")
    a, b = (tensors[PREFIX + module + suffix].shape for suffix in suffixes)
    rank = _by_pattern(config.get("rank_pattern") or {}, module, config["r"])
    alpha = _by_pattern(config.get("alpha_pattern") or {}, module, config.get("lora_alpha", 8))
    # Bare parameters stack one pair of factors an expert along the rank.
    fits = len(a) >= 2 and len(b) >= 2 and a[0] == b[1] and 0 not in (*a, *b)
    fits = fits and (a[0] == rank or bool(config.get("target_parameters") and a[0] % rank == 0))
    if not fits:
        raise AdapterError(
            f"The factors of {module} in the adapter {folder.name} have the shapes {list(a)} "
            f"and {list(b)}, which don't fit the rank {rank} of its config."
        )
    scaling = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    return LoraModule(module, rank, alpha, scaling, a[1], b[0], suffixes is EMBEDDING_FACTORS)


def _by_pattern(patterns: Mapping[str, Any], module: str, otherwise: Any) -> Any:
    return patterns.get(match_pattern(patterns, module) or "", otherwise)
