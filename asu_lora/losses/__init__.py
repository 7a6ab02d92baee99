"""The losses, one a file. Adding one is a file and a line here."""

from collections.abc import Mapping
from typing import Any

from asu_lora.errors import SettingError
from asu_lora.losses.forget.altpo import AltPO
from asu_lora.losses.forget.asu import ASU
from asu_lora.losses.forget.asu_idk import ASUWithIDK
from asu_lora.losses.forget.ceu import CEU
from asu_lora.losses.forget.dpo import DPO
from asu_lora.losses.forget.ga import GA
from asu_lora.losses.forget.idk import IDK
from asu_lora.losses.forget.jensun import JensUn
from asu_lora.losses.forget.me import ME
from asu_lora.losses.forget.npo import NPO
from asu_lora.losses.forget.pdu import PDU
from asu_lora.losses.forget.rmu import RMU
from asu_lora.losses.forget.satimp import SatImp
from asu_lora.losses.forget.simnpo import SimNPO
from asu_lora.losses.forget.undial import UNDIAL
from asu_lora.losses.forget.wga import WGA
from asu_lora.losses.loss import Loss
from asu_lora.losses.loss_settings import settings_of
from asu_lora.losses.retain.ap import AP
from asu_lora.losses.retain.gd import GD
from asu_lora.losses.retain.js import JS
from asu_lora.losses.retain.kl import KL
from asu_lora.losses.retain.kl_answers import KLAnswers
from asu_lora.losses.retain.rmu import RMURetain
from asu_lora.losses.training_set import TrainingSet, losses_of

FORGET: dict[str, type[Loss]] = {
    c.name: c
    for c in (*(ASU, ASUWithIDK, NPO, DPO, IDK, ME, GA), *(SimNPO, RMU, UNDIAL, AltPO, WGA, SatImp, CEU, PDU, JensUn))
}
RETAIN: dict[str, type[Loss]] = {c.name: c for c in (KLAnswers, KL, GD, AP, JS, RMURetain)}
NO_RETAIN = "none"

__all__ = ["FORGET", "NO_RETAIN", "RETAIN", "Loss", "TrainingSet", "forget_loss", "looks_at", "losses_of"]
__all__ += ["needs_of", "own_settings", "paper_settings", "retain_loss"]


def forget_loss(name: str, **parameters) -> Loss:
    """The forget loss of this name.

    Raises:
        SettingError: there is none.
    """
    return _find(FORGET, name, "objective")(**parameters)


def retain_loss(name: str, **parameters) -> Loss | None:
    """The retain loss of this name, None for ``none``.

    Raises:
        SettingError: there is none.
    """
    return None if name == NO_RETAIN else _find(RETAIN, name, "retain loss")(**parameters)


def own_settings(objective: str, retain: str, text: str | None) -> dict[str, dict[str, float]]:
    """The numbers that ``forget`` and ``retain`` loss are made with: their papers', changed by ``--loss-settings``.

    Raises:
        SettingError: no such loss, a number that neither has, or one out of its range.
    """
    losses = {"forget": _find(FORGET, objective, "objective")}
    if retain != NO_RETAIN:
        losses["retain"] = _find(RETAIN, retain, "retain loss")
    found = settings_of(losses, text or "")
    own = {"retain": dict[str, float]()} | found
    forget_loss(objective, **own["forget"])  # these check the ranges
    retain_loss(retain, **own["retain"])
    return own


def paper_settings(objective: str, retain: str | None = None) -> dict[str, Any]:
    """``forget_coeff``, ``retain_coeff`` and ``retain_loss`` of the objective's paper, as far as it has its own.

    Args:
        retain: the retain loss that was chosen. Weights were made for the paper's own: beside another they say nothing.

    Raises:
        SettingError: there is no such objective.
    """
    paper = _find(FORGET, objective, "objective").paper
    if retain not in (None, paper.retain_loss):
        return {}
    return {name: value for name, value in paper._asdict().items() if value is not None}


def needs_of(losses: Mapping[str, Loss]) -> dict[str, Mapping[str, tuple[str, ...]]]:
    """What each set's loss looks at, by set and view (see :attr:`Loss.needs`)."""
    return {name: loss.needs for name, loss in losses.items()}


def looks_at(view: str, objective: str, retain: str) -> bool:
    """Whether one of the two losses looks at this view of a row (see :attr:`Loss.needs`)."""
    return view in forget_loss(objective).needs or view in getattr(retain_loss(retain), "needs", ())


def _find(registry: dict[str, type[Loss]], name: str, what: str) -> type[Loss]:
    if name not in registry:
        raise SettingError(f"There is no {what} '{name}': choose one of {', '.join(registry)}.")
    return registry[name]
