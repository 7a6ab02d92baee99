"""A PEFT LoRA folder as factors, module by module: what it adds to which weight, and with what scaling.

LoRA (arXiv 2106.09685) adds ``scaling * B A`` to a weight, A of shape (r, in), B of shape (out, r).
Everything PEFT can put into an adapter beyond that is either understood here (rank and alpha patterns,
rsLoRA, embeddings, fan-in/fan-out) or refused by name, so that nothing is combined or merged wrongly in
silence.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asu_lora.adapters.manifest import WEIGHTS_NAME, Manifest, has_manifest, read_manifest
from asu_lora.adapters.stored_adapter import read_adapter_config
from asu_lora.errors import AdapterError
from asu_lora.safetensors_header import TensorInfo, read_header

if TYPE_CHECKING:
    import torch

PREFIX = "base_model.model."
LINEAR_FACTORS = (".lora_A.weight", ".lora_B.weight")
EMBEDDING_FACTORS = (".lora_embedding_A", ".lora_embedding_B")

_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}

# Fields of adapter_config.json that make an adapter more than scaling * B A on a base left as it was.
_MORE_THAN_LORA = {
    "use_dora": "it is a DoRA, whose magnitudes rescale the base",
    "modules_to_save": "it replaces whole modules (modules_to_save)",
    "trainable_token_indices": "it retrains single token embeddings (trainable_token_indices)",
    "lora_bias": "it adds a bias of its own (lora_bias)",
    "layer_replication": "it repeats layers of the base (layer_replication)",
    "target_parameters": "it changes bare parameters rather than modules (target_parameters)",
    "use_qalora": "it is a QALoRA",
    "velora_config": "it is a VeLoRA",
    "alora_invocation_tokens": "it is an activated LoRA, which acts on some tokens only",
    "monteclora_config": "it is a MonteCLoRA",
    "use_bdlora": "it is a block-diagonal LoRA",
    "arrow_config": "it is an Arrow router, which picks its experts token by token",
    "kasa_config": "it is a KaSA, which truncates the base",
    "megatron_config": "it is made for Megatron's layers",
}
# Initialisations that leave the base alone. The others (pissa, olora, corda, loftq, lora_ga, ...) move a part
# of the base into the factors, so that B A is no update of the base as it lies on the disk.
_PICKLES = (".bin", ".pt", ".pth", ".pkl")
_PLAIN_INITS = (True, False, None, "true", "false", "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class LoraModule:
    """One module an adapter changes.

    Attributes:
        name: of the module in the base, such as ``model.layers.0.self_attn.q_proj``.
        rank: r.
        scaling: alpha/r, or alpha/sqrt(r) for rsLoRA.
        in_features, out_features: the sizes of A (r, in) and B (out, r).
        embedding: an update of an embedding, whose weight (in, out) takes the transpose of B A.
    """

    name: str
    rank: int
    scaling: float
    in_features: int
    out_features: int
    embedding: bool


@dataclass(frozen=True)
class LoraFolder:
    """A checked LoRA folder; its tensors stay on the disk until :meth:`factors` asks for them."""

    path: Path
    config: dict[str, Any] = field(repr=False)
    manifest: Manifest | None = field(repr=False)
    modules: dict[str, LoraModule] = field(repr=False)
    tensors: dict[str, TensorInfo] = field(repr=False)

    @property
    def name(self) -> str:
        return self.manifest.name if self.manifest else self.path.name

    @property
    def base_id(self) -> str | None:
        """The base by name: from the manifest, or what PEFT wrote; None where neither says."""
        return self.manifest.base.id if self.manifest else self.config.get("base_model_name_or_path") or None

    def factors(self, module: str) -> "tuple[torch.Tensor, torch.Tensor]":
        """A (r, in) and B (out, r) of one module in fp32, scaling not applied.

        Raises:
            AdapterError: they can't be read, or hold NaN or infinities.
        """
        import torch

        suffixes, read = EMBEDDING_FACTORS if self.modules[module].embedding else LINEAR_FACTORS, []
        try:
            # by the offsets that are known: a reader of the whole format would parse the header for every module
            with (self.path / WEIGHTS_NAME).open("rb") as file:
                for suffix in suffixes:
                    info = self.tensors[PREFIX + module + suffix]
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
                            f"{module}{suffix}: it is broken, train it anew."
                        )
                    read.append(tensor)
        except OSError as error:
            raise AdapterError(f"The weights of the adapter '{self.name}' can't be read: {error.strerror}.") from error
        return read[0], read[1]


def read_lora(folder: str | Path) -> LoraFolder:
    """Read config, manifest (where there is one) and tensor shapes of a PEFT LoRA folder.

    Raises:
        AdapterError: it is no LoRA folder, its tensors are damaged, missing or of the wrong shape, or it is
            more than a LoRA; the sentence names what.
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
    _refuse_more_than_lora(folder, config)
    manifest = read_manifest(folder) if has_manifest(folder) else None
    tensors = read_header(folder / WEIGHTS_NAME)
    return LoraFolder(folder, config, manifest, _modules(folder, config, tensors), tensors)


def refuse_different_bases(loras: Sequence[LoraFolder]) -> None:
    """Adapters only add up on one and the same base.

    Fingerprints decide where two adapters have them (a base may have two names); names decide elsewhere.

    Raises:
        AdapterError: two of them belong to different bases.
    """
    for position, one in enumerate(loras):
        for other in loras[:position]:
            if one.manifest and other.manifest:
                differ = one.manifest.base.fingerprint != other.manifest.base.fingerprint
            else:
                differ = bool(one.base_id and other.base_id) and one.base_id != other.base_id
            if differ:
                named_alike = one.base_id == other.base_id
                hint = ", which shares its name but not its weights" if named_alike else ""
                raise AdapterError(
                    f"The adapter '{other.name}' belongs to the base {other.base_id} and "
                    f"'{one.name}' to {one.base_id}{hint}: adapters only add up on one base."
                )


def match_pattern(patterns: Iterable[str], module: str) -> str | None:
    """The first of the rank or alpha patterns that fits a module's name, by PEFT's rule."""
    try:
        return next((pattern for pattern in patterns if re.match(rf"(.*\.)?({pattern})$", module)), None)
    except re.error as error:
        raise AdapterError(f"A rank or alpha pattern is no regular expression: {error}.") from error


def _refuse_more_than_lora(folder: Path, config: dict[str, Any]) -> None:
    for name, why in _MORE_THAN_LORA.items():
        if config.get(name):
            raise AdapterError(f"The adapter {folder.name} can't be added up or merged: {why}.")
    if config.get("bias", "none") != "none":
        raise AdapterError(
            f"The adapter {folder.name} can't be added up or merged: it retrains the base's "
            f"biases (bias={config['bias']!r})."
        )
    init = config.get("init_lora_weights", True)
    if init not in _PLAIN_INITS:
        raise AdapterError(
            f"The adapter {folder.name} can't be added up or merged: its initialisation "
            f"{init!r} changes the base itself; convert it to a plain LoRA with PEFT first."
        )


def _modules(folder: Path, config: dict[str, Any], tensors: dict[str, TensorInfo]) -> dict[str, LoraModule]:
    """Pair the file's tensors into modules and check every shape against the config."""
    found: dict[str, tuple[str, str]] = {}
    for key in tensors:
        suffixes = next((pair for pair in (LINEAR_FACTORS, EMBEDDING_FACTORS) if key.endswith(pair)), None)
        if suffixes is None or not key.startswith(PREFIX):
            raise AdapterError(
                f"The adapter {folder.name} can't be added up or merged: it carries the "
                f"tensor {key}, which is no LoRA factor."
            )
        found[key.removeprefix(PREFIX).removesuffix(suffixes[0]).removesuffix(suffixes[1])] = suffixes
    if not found:
        raise AdapterError(f"The adapter {folder.name} holds no LoRA factors at all.")
    return {module: _module(folder, config, tensors, module, suffixes) for module, suffixes in found.items()}


def _module(
    folder: Path, config: dict[str, Any], tensors: dict[str, TensorInfo], module: str, suffixes: tuple[str, str]
) -> LoraModule:
    pair = [tensors.get(PREFIX + module + suffix) for suffix in suffixes]
    if None in pair:
        missing = suffixes[pair.index(None)]
        raise AdapterError(f"The adapter {folder.name} is incomplete: {module}{missing} is missing.")
    a, b = (info.shape for info in pair)
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    rank = ranks.get(match_pattern(ranks, module), config["r"])
    alpha = alphas.get(match_pattern(alphas, module), config.get("lora_alpha", 8))
    if any(info.dtype not in _FLOATS for info in pair):
        raise AdapterError(f"The adapter {folder.name} holds {module} as {pair[0].dtype}, not as floats.")
    if len(a) != 2 or len(b) != 2:
        raise AdapterError(
            f"The adapter {folder.name} changes {module}, which is no linear layer or "
            f"embedding (its factors have the shapes {list(a)} and {list(b)})."
        )
    if a[0] != rank or b[1] != rank or 0 in (*a, *b):
        raise AdapterError(
            f"The factors of {module} in the adapter {folder.name} have the shapes {list(a)} "
            f"and {list(b)}, which don't fit the rank {rank} of its config."
        )
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
        raise AdapterError(f"The adapter {folder.name} gives {module} the alpha {alpha!r}, which is odd.")
    scaling = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    return LoraModule(module, rank, scaling, a[1], b[0], suffixes is EMBEDDING_FACTORS)
