"""Methods by name: ``ASU_KL`` is the forget loss asu with the retain loss kl."""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

from asu_lora.adding_up import ADDS_UP
from asu_lora.config import ForgetConfig
from asu_lora.errors import SettingError
from asu_lora.losses import FORGET, NO_RETAIN, RETAIN, paper_settings

BASE = "Base"
REFERENCE = "Reference"  # a model that never saw the request: where forgetting should end
UNTRAINED = (BASE, REFERENCE)
PAPER = (
    "GA_GD",
    "GA_KL",
    "NPO_GD",
    "NPO_KL",
    "DPO_GD",
    "DPO_KL",
    "IDK_AP",
    "IDK_GD",
    "IDK_KL",
    "ME_GD",
    "ME_KL",
    "ASU_GD",
    "ASU_KL",
)  # in the order of the paper's table (arXiv 2603.01285)
FIELD = (
    "SIMNPO_GD",
    "RMU_RMU",
    "UNDIAL_NONE",
    "ALTPO_GD",
    "WGA_GD",
    "SATIMP_GD",
    "CEU_NONE",
    "PDU_GD",
    "JENSUN_JS",
)  # the field's others, each with the retain loss of its own paper (docs/method.md)
DEFAULT = "ASU_DEFAULT"  # what ``forget`` trains where nothing is typed: its own settings, rate and epochs among them
OURS = (DEFAULT,)
WEIGHTS, DEFAULTS = ("forget_coeff", "retain_coeff"), ForgetConfig()
GROUPS = {"paper": PAPER, "field": FIELD, "all": PAPER + FIELD + OURS}


@dataclass(frozen=True)
class Method:
    """A forget loss with a retain loss; ``Base`` and ``Reference`` have neither: they are only evaluated.

    Attributes:
        settings: that belong to it, whatever those of the others are, by name; most methods have none.
        lr: its own learning rate, where it has one.
    """

    name: str
    objective: str | None = None
    retain_loss: str | None = None
    settings: tuple[tuple[str, Any], ...] = ()
    lr: float | None = None

    @property
    def untrained(self) -> bool:
        """Whether it is only evaluated."""
        return self.objective is None

    def config(self, config: ForgetConfig) -> ForgetConfig:
        """The settings with this method's losses; those of ``Base`` are as they were."""
        if self.objective is None or self.retain_loss is None:
            return config
        return replace(config, objective=self.objective, retain_loss=self.retain_loss)

    def weights(self, config: ForgetConfig, given: Collection[str] = ()) -> dict[str, Any]:
        """The weights of the method's paper, where these settings have others that nobody asked for.

        Or the method's own settings, where it has some.

        Args:
            given: settings that somebody chose, even if they are the defaults. Whatever is no default was chosen too.
        """
        if self.settings:
            return dict(self.settings)
        own = paper_settings(self.objective, self.retain_loss) if self.objective else {}
        open_ = [name for name in WEIGHTS if name not in given and getattr(config, name) == getattr(DEFAULTS, name)]
        return {name: own[name] for name in open_ if name in own and own[name] != getattr(config, name)}


def method(name: str) -> Method:
    """The method of a name such as ``NPO_GD``; any forget loss goes with any retain loss, or with ``NONE``.

    Raises:
        SettingError: no such losses.
    """
    text = name.strip()
    for name in UNTRAINED:
        if text.casefold() == name.casefold():
            return Method(name)
    if text.upper() == DEFAULT:
        return _default()
    objective, _, retain = text.lower().rpartition("_")
    if objective not in FORGET or retain not in (*RETAIN, NO_RETAIN):
        raise SettingError(
            f"There is no method '{text}': write FORGET_RETAIN with FORGET one of "
            f"{', '.join(FORGET).upper()} and RETAIN one of {', '.join(RETAIN).upper()}, NONE "
            f"(the paper's are {', '.join(PAPER)}, the field's {', '.join(FIELD)}), {DEFAULT}, "
            f"or {' or '.join(UNTRAINED)}."
        )
    return Method(text.upper(), objective, retain)


def _default() -> Method:
    settings = dict(ADDS_UP)
    lr = settings.pop("lr")
    return Method(DEFAULT, DEFAULTS.objective, DEFAULTS.retain_loss, tuple(sorted(settings.items())), lr)


def methods(names: Iterable[str] = PAPER) -> list[Method]:
    """Base, then the methods of these names, each once, in the order given.

    ``paper``, ``field`` and ``all`` (with :data:`DEFAULT`) stand for several.
    """
    single = [each for name in names for each in GROUPS.get(name.strip().lower(), (name,))]
    return list(dict.fromkeys([Method(BASE), *map(method, single)]))


def method_configs(text: str | None, config: ForgetConfig, given: Collection[str] = ()) -> dict[str, ForgetConfig]:
    """The settings of every method in ``"ASU_KL,NPO_GD"`` or ``"ASU_KL=1e-3,GA_GD=1e-4"`` (its own learning rate).

    Args:
        text: None is the config's own losses.
        given: settings that a method's paper doesn't replace (:meth:`Method.weights`).

    Raises:
        SettingError: no such method, one that trains nothing, or a learning rate that is none.
    """
    if text is None:
        return {f"{config.objective}_{config.retain_loss}".upper(): config}
    found: dict[str, ForgetConfig] = {}
    for entry in filter(None, map(str.strip, text.split(","))):
        name, equals, rate = entry.partition("=")
        chosen = method(name)
        if chosen.untrained:
            raise SettingError(f"{chosen.name} unlearns nothing: name methods such as ASU_KL; Base is scored anyway.")
        if chosen.name in found:
            raise SettingError(f"The method {chosen.name} is named twice.")
        lr = learning_rate(rate, entry) if equals else chosen.lr or config.lr
        found[chosen.name] = replace(chosen.config(config), lr=lr, **chosen.weights(config, given))
    if not found:
        raise SettingError("No method is named: write FORGET_RETAIN, such as ASU_KL.")
    return found


def learning_rate(value: str, text: str) -> float:
    """The learning rate that ``value`` says, a part of the ``text`` that was typed.

    Raises:
        SettingError: no number above 0.
    """
    try:
        lr = float(value)
    except ValueError:
        lr = math.nan
    if not (math.isfinite(lr) and lr > 0):
        raise SettingError(
            f"The learning rate '{text}' can't be read: write a number above 0, such as 1e-3, or "
            "NPO_GD=1e-4 for one method."
        )
    return lr


def lr_text(lr: float) -> str:
    """As short as it can be without another learning rate reading the same."""
    return short if float(short := shown(lr)) == lr else repr(lr).replace("+", "")


def shown(number: float) -> str:
    """To six digits, for people."""
    return f"{number:g}".replace("+", "")


def file_name(method: str) -> str:
    """A method's name as that of a file, folder or adapter: ``ASU+IDK_KL`` is ``ASU-IDK_KL``."""
    return method.replace("+", "-")
