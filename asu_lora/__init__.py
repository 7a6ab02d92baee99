"""asu-lora: one forget request in, one LoRA adapter out.

Attention Smoothing Unlearning (ASU, arXiv 2603.01285) on LoRA over a quantised base: teacher, reference
and student are one set of weights: adapter off and smoothed, adapter off, adapter on.

Names are imported on first use, so that ``import asu_lora`` stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from asu_lora.hardware.huge_pages import use_huge_pages

use_huge_pages()  # before torch takes memory

_EXPORTS = {
    "__version__": "asu_lora.version",
    "AsuLoraError": "asu_lora.errors",
    "AdapterStore": "asu_lora.adapters.store",
    "ForgetRequest": "asu_lora.data.request",
    "ForgetConfig": "asu_lora.config",
    "attention_smoothing": "asu_lora.teacher.smoothing",
    "forget": "asu_lora.forgetting.forget",
    "load": "asu_lora.models.adapter_stack",
}

_ROOMS = ("audit",)  # asu_lora.audit.audit attacks what forget made

__all__ = [*_ROOMS, *sorted(_EXPORTS)]

if TYPE_CHECKING:
    from asu_lora import audit as audit
    from asu_lora.adapters.store import AdapterStore as AdapterStore
    from asu_lora.config import ForgetConfig as ForgetConfig
    from asu_lora.data.request import ForgetRequest as ForgetRequest
    from asu_lora.errors import AsuLoraError as AsuLoraError
    from asu_lora.forgetting.forget import forget as forget
    from asu_lora.models.adapter_stack import load as load
    from asu_lora.teacher.smoothing import attention_smoothing as attention_smoothing
    from asu_lora.version import __version__ as __version__


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"asu_lora.{name}")
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'asu_lora' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
