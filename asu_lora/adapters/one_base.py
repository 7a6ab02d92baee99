"""Adapters that are to be added up: read, with one name for a module, and refused unless one base can take all."""

from collections.abc import Sequence
from pathlib import Path

from asu_lora.adapters.lora_folder import LoraFolder, read_lora
from asu_lora.errors import AdapterError


def read_loras(folders: Sequence[str | Path]) -> list[LoraFolder]:
    """Adapters of one base, their modules called as the first one calls them, whoever saved them.

    Raises:
        AdapterError: one that can't be added up (:func:`~asu_lora.adapters.lora_folder.read_lora`), different bases,
            or different sizes of one module.
    """
    loras = [read_lora(folder) for folder in folders]
    loras = [lora.aligned_to(loras[0].modules) for lora in loras]
    refuse_different_bases(loras)
    _refuse_different_sizes(loras)
    return loras


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


def _refuse_different_sizes(loras: Sequence[LoraFolder]) -> None:
    for name in {name for lora in loras for name in lora.modules}:
        sizes = {
            (m.in_features, m.out_features, m.embedding): lora.name for lora in loras if (m := lora.modules.get(name))
        }
        if len(sizes) > 1:
            first, second = list(sizes.values())[:2]
            raise AdapterError(
                f"The adapters '{first}' and '{second}' give {name} different sizes: they can't belong to one base."
            )
