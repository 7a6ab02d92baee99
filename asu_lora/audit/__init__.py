"""Attack what was forgotten, beside controls, and write down what was tried and what it found.

``asu_lora.audit.audit`` and what it takes are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_EXPORTS = {
    "AuditRequest": "asu_lora.audit.request",
    "AuditResult": "asu_lora.audit.results",
    "AuditSettings": "asu_lora.audit.settings",
    "audit": "asu_lora.audit.run",
}

__all__ = ["AuditRequest", "AuditResult", "AuditSettings", "audit"]

if TYPE_CHECKING:
    from asu_lora.audit.request import AuditRequest as AuditRequest
    from asu_lora.audit.results import AuditResult as AuditResult
    from asu_lora.audit.run import audit as audit
    from asu_lora.audit.settings import AuditSettings as AuditSettings


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'asu_lora.audit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
