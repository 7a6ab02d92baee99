"""The settings with which adapters add up: trained alone, each on the plain base, and right together.

They were chosen on SmolLM2-135M (docs/results/adding_up.md) and go together. The retain loss sees the adapter at
several times its strength and feels what moves a token the base is sure of; the adapter keeps off what kept rows use.
So fewer steps at a higher rate forget and leave the rest alone; the adapter is left as strong as its request needs.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from asu_lora.config import OBJECTIVES, ForgetConfig
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


OBJECTIVE = ForgetConfig().objective


def default_settings(alone: bool, robust: str = OFF, objective: str = OBJECTIVE) -> ForgetConfig:
    """What ``forget`` trains with where no settings are given: those above, if the adapter is trained alone.

    Args:
        robust: one of :data:`asu_lora.robust.ROBUST`.
        objective: another than the default is trained with its paper's retain loss and weights instead.
    """
    given = {"objective": objective}
    meant = unless_given(given, adds_up=alone and objective == OBJECTIVE, robust=robust)
    return config_from({**meant, **given}, "The defaults")


def unless_given(given: Mapping[str, Any], *, adds_up: bool, robust: str = OFF) -> dict[str, Any]:
    """The settings that are meant where nobody gives them; what is given wins over them.

    Args:
        given: settings by name, the objective among them unless it is the default.
        adds_up: those above; without, the retain loss and the weights of the objective's paper.
        robust: one of :data:`asu_lora.robust.ROBUST`; other objectives than the default go without its attacker, which
            some of them couldn't have.
    """
    lasting = dict(ROBUST[robust])
    if given.get("objective", OBJECTIVE) != OBJECTIVE:
        lasting.pop("attacker_lr", None)
    return {**(ADDS_UP if adds_up else _of_the_paper(given)), **lasting}


def _of_the_paper(given: Mapping[str, Any]) -> dict[str, Any]:
    objective = given.get("objective", OBJECTIVE)
    if objective == OBJECTIVE or objective not in OBJECTIVES:
        return {}  # an unknown one is refused with the other settings
    from asu_lora.losses import paper_settings  # torch, which the command line does without until it must

    return paper_settings(objective, given.get("retain_loss"))
