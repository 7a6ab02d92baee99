"""A LoRA adapter as one GGUF file, which llama.cpp and what is built on it (Ollama, LM Studio) load onto a GGUF base.

llama.cpp adds ``alpha / r * B A`` to a weight, with one alpha for the whole file and r the rows of that weight's A.
Where an adapter scales a module otherwise (rsLoRA, alpha patterns), the difference goes into its B.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from asu_lora.adapters.gguf_names import GgufBase, gguf_base, import_gguf
from asu_lora.adapters.lora_folder import LoraFolder, LoraModule, read_lora
from asu_lora.adapters.sharing import shareable
from asu_lora.errors import AdapterError, SettingError, StoreError
from asu_lora.files import discard, expanded, fsync_path

if TYPE_CHECKING:
    import numpy

    from asu_lora.adapters.store import AdapterStore

PRECISIONS = ("fp32", "fp16")
LARGEST_FP16 = 65504.0


def export_gguf(
    store: "AdapterStore",
    name: str,
    destination: Path,
    base_config: Mapping[str, Any],
    precision: str = "fp32",
    trained_on: Mapping[str, Any] | None = None,
) -> Path:
    """Write a verified adapter of the store as a LoRA in GGUF.

    Args:
        destination: a new file.
        base_config: its base's config with all defaults, see :func:`asu_lora.bases.base_config.base_config`.
        precision: of the factors, fp32 or fp16.
        trained_on: the config of the base that the adapter names, where that is another.

    Returns:
        the file.

    Raises:
        AdapterError: it is broken, is more than a LoRA, changes what llama.cpp keeps otherwise, or was trained on a
            base with other heads.
        SettingError: an unknown precision.
        StoreError: it is unknown, or the destination exists or can't be written.
    """
    if precision not in PRECISIONS:
        raise SettingError(f"precision is '{precision}'; a GGUF adapter is written in {' or '.join(PRECISIONS)}.")
    destination = expanded(destination)
    if os.path.lexists(destination):
        raise StoreError(f"{destination} is there already and is not overwritten: choose another place.")
    base = gguf_base(base_config)
    if trained_on is not None:
        _refuse_other_heads(name, base, gguf_base(trained_on))
    beside = destination.parent / f".{destination.name}.{uuid4().hex}"
    with shareable(store, name) as snapshot:
        lora = read_lora(snapshot)
        tensors = gguf_tensors(lora, base, precision)
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            _write(beside, name, lora, base, tensors)
            fsync_path(beside)
            os.rename(beside, destination)
        except OSError as error:
            raise StoreError(f"{name} can't be exported to {destination}: {error.strerror or error}.") from error
        finally:
            discard(beside)
    return destination


def _refuse_other_heads(name: str, base: GgufBase, own: GgufBase) -> None:
    """Bases of the same sizes may have other heads. The rows of q and k are put in order by them, unseen."""
    given, trained = ((each.heads, each.key_value_heads) for each in (base, own))
    if given != trained:
        raise AdapterError(
            f"The base of --base has {given[0]} heads and {given[1]} of keys, and the one that {name} names "
            f"{trained[0]} and {trained[1]}: leave --base away, or give a base with the same heads."
        )


def gguf_tensors(lora: LoraFolder, base: GgufBase, precision: str) -> "dict[str, numpy.ndarray]":
    """The factors as llama.cpp wants them: {name: A (r, in)} and {name: B (out, r)}, B with its rows in order.

    Raises:
        AdapterError: see :func:`export_gguf`.
    """
    if embedding := next((name for name, module in lora.modules.items() if module.embedding), None):
        raise AdapterError(
            f"The adapter changes the embedding {embedding}, which llama.cpp also uses as output head where the two "
            "are tied: bake the adapter into the weights with 'asu-lora merge --format gguf'."
        )
    alpha = common_alpha(lora)
    tensors = {}
    for module, name in base.tensor_names(lora.modules).items():
        a, b = lora.factors(module)
        order = base.row_order(module, b.shape[0])
        b = (b if order is None else b[order]) * share_of_b(lora.modules[module], alpha)
        tensors[f"{name}.lora_a"] = _in_precision(a.numpy(), module, precision)
        tensors[f"{name}.lora_b"] = _in_precision(b.numpy(), module, precision)
    return tensors


def common_alpha(lora: LoraFolder) -> float:
    """The alpha that the file names: the config's own, so that the B of plain modules stay as they are."""
    alpha = float(lora.config.get("lora_alpha", 8))
    return alpha if alpha else 1.0  # llama.cpp takes 0 for "don't scale"


def share_of_b(module: LoraModule, alpha: float) -> float:
    """What a module's B is multiplied with, so that ``alpha / r`` of it is the module's own scaling."""
    return module.scaling * module.rank / alpha


def _in_precision(values: "numpy.ndarray", module: str, precision: str) -> "numpy.ndarray":
    if precision == "fp32":
        return values
    if abs(values).max(initial=0) > LARGEST_FP16:
        raise AdapterError(f"The adapter's {module} holds numbers beyond fp16: export it with --precision fp32.")
    return values.astype("float16")


def _write(file: Path, name: str, lora: LoraFolder, base: GgufBase, tensors: "dict[str, numpy.ndarray]") -> None:
    gguf = import_gguf()
    writer = gguf.GGUFWriter(file, base.label)
    try:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_name(name)
        if lora.base_id:
            writer.add_base_model_count(1)
            writer.add_base_model_name(0, lora.base_id)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, common_alpha(lora))
        for key, values in tensors.items():
            writer.add_tensor(key, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
