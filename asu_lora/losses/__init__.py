"""The losses, one a file. Adding one is a file and a line here."""

from collections.abc import Mapping

from asu_lora.errors import SettingError
from asu_lora.losses.forget.asu import ASU
from asu_lora.losses.forget.asu_idk import ASUWithIDK
from asu_lora.losses.forget.dpo import DPO
from asu_lora.losses.forget.ga import GA
from asu_lora.losses.forget.idk import IDK
from asu_lora.losses.forget.me import ME
from asu_lora.losses.forget.npo import NPO
from asu_lora.losses.loss import Loss
from asu_lora.losses.retain.ap import AP
from asu_lora.losses.retain.gd import GD
from asu_lora.losses.retain.kl import KL
from asu_lora.losses.retain.kl_answers import KLAnswers
from asu_lora.losses.training_set import TrainingSet

FORGET: dict[str, type[Loss]] = {c.name: c for c in (ASU, ASUWithIDK, NPO, DPO, IDK, ME, GA)}
RETAIN: dict[str, type[Loss]] = {c.name: c for c in (KLAnswers, KL, GD, AP)}
NO_RETAIN = "none"

__all__ = ["FORGET", "NO_RETAIN", "RETAIN", "Loss", "TrainingSet", "forget_loss", "needs_of", "retain_loss"]


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


def needs_of(losses: Mapping[str, Loss]) -> dict[str, Mapping[str, tuple[str, ...]]]:
    """What each set's loss looks at, by set and view (see :attr:`Loss.needs`)."""
    return {name: loss.needs for name, loss in losses.items()}


def _find(registry: dict[str, type[Loss]], name: str, what: str) -> type[Loss]:
    if name not in registry:
        raise SettingError(f"There is no {what} '{name}': choose one of {', '.join(registry)}.")
    return registry[name]
