"""This version, and those of the libraries that figures depend on."""

import platform
import re
from typing import Any

# The git tag that was installed (pyproject.toml); a folder that is only on the path has none.
__version__: str

_LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "safetensors")


def _installed(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version  # a quarter of what --help would take

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def __getattr__(name: str) -> Any:
    """The version is looked up where somebody asks for it."""
    if name != "__version__":
        raise AttributeError(f"module 'asu_lora.version' has no attribute {name!r}")
    globals()[name] = _installed("asu-lora") or "0+unknown"
    return globals()[name]


def base_version(version: str) -> str:
    """The release that a version is or leads up to: ``0.1.0`` for ``0.1.0.dev768+g2acd80f``."""
    found = re.match(r"\d+(\.\d+)*", version)
    return found[0] if found else version


def library_versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        if installed := _installed(name):
            found[name] = installed
    return found
