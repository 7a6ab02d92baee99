"""How hard a run works at forgetting that lasts: one word for the settings that resist attacks.

docs/results/robust.md has what each brings and costs.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

OFF, STANDARD, STRONG = "off", "standard", "strong"

ROBUST: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        OFF: MappingProxyType({}),
        STANDARD: MappingProxyType({"settle_rounded": 0.25, "phrasings": 2, "attacker_lr": 2e-3}),
        STRONG: MappingProxyType({"settle_rounded": 0.1, "phrasings": 4, "attacker_lr": 2e-3}),
    }
)
