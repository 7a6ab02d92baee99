"""The settings with which adapters add up: trained alone, each on the plain base, and right together.

They were chosen on SmolLM2-135M (docs/results/adding_up.md) and go together. The retain loss sees the adapter at
several times its strength and feels what moves a token the base is sure of; the adapter keeps off what kept rows use.
So fewer steps at a higher rate forget and leave the rest alone; the adapter is left as strong as its request needs.
"""

from types import MappingProxyType

from asu_lora.config import ForgetConfig
from asu_lora.config_mapping import config_from
from asu_lora.robust import OFF, ROBUST

ADDS_UP = MappingProxyType(
    {
        "retain_dose": 4.0,
        "keep_off": 0.5,
        "forget_dose": 1.5,
        "settle_at": 0.15,
        "retain_temperature": 4.0,
        "retain_coeff": 0.7,
        "retain_per_forget": 1,
        "lr": 8e-3,
        "epochs": 8.0,
    }
)


def default_settings(alone: bool, robust: str = OFF) -> ForgetConfig:
    """What ``forget`` trains with where no settings are given: those above, if the adapter is trained alone.

    Args:
        robust: one of :data:`asu_lora.robust.ROBUST`.
    """
    return config_from({**(ADDS_UP if alone else {}), **ROBUST[robust]}, "The defaults")
