"""A base's config with all its defaults, without its weights: a few kilobytes even for a base on the hub."""

from typing import Any

from asu_lora.bases.smollm2 import EMBEDDED
from asu_lora.bases.source import resolve_base
from asu_lora.errors import BaseModelError
from asu_lora.files import expanded


def base_config(name: str) -> dict[str, Any]:
    """The config of a base as transformers has it, defaults included.

    Args:
        name: a hub id, a folder or ``smollm2-135m``.

    Raises:
        BaseModelError: there is no such base, or transformers doesn't know its architecture.
    """
    from transformers import AutoConfig

    local = name == EMBEDDED or expanded(name).exists() or name.count("/") != 1
    place = str(resolve_base(name).path) if local else name
    try:
        return AutoConfig.from_pretrained(place).to_dict()
    except Exception as error:  # hub, network, cache and unknown architectures all mean the same to the person
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
        raise BaseModelError(
            f"The config of the base '{name}' can't be read ({reason[:200]}): name a folder with its config.json."
        ) from error


def config_if_here(name: str) -> dict[str, Any] | None:
    """The config of a base that is here or on the hub, None where it can't be read (moved, no network)."""
    try:
        return base_config(name)
    except BaseModelError:
        return None
