"""The rows of the paper's table: which forget loss with which retain loss, and the learning rates tried for each."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from asu_lora.errors import SettingError
from asu_lora.objectives import FORGET, NO_RETAIN, RETAIN

BASE = "Base"


@dataclass(frozen=True)
class Method:
    """A row of the table; ``Base`` has neither loss and is only evaluated."""

    name: str
    objective: str | None = None
    retain_loss: str | None = None

    @property
    def is_base(self) -> bool:
        return self.objective is None


@dataclass(frozen=True)
class Run:
    """One adapter to train and score: a method at a learning rate (None for Base)."""

    method: Method
    lr: float | None = None

    @property
    def name(self) -> str:
        """The adapter's name in the comparison's store, and the row file's."""
        return BASE if self.lr is None else f"{self.method.name.replace('+', '-')}-lr-{lr_text(self.lr)}"

    @property
    def title(self) -> str:
        return BASE if self.lr is None else f"{self.method.name}, lr {lr_text(self.lr)}"


def method(name: str) -> Method:
    """The method of a name such as ``NPO_GD``; any forget loss goes with any retain loss, or with ``NONE``.

    Raises:
        SettingError: no such losses.
    """
    text = name.strip()
    if text.casefold() == BASE.casefold():
        return Method(BASE)
    objective, _, retain = text.lower().rpartition("_")
    if objective not in FORGET or retain not in (*RETAIN, NO_RETAIN):
        raise SettingError(f"There is no method '{text}': write FORGET_RETAIN with FORGET one of "
                           f"{', '.join(FORGET).upper()} and RETAIN one of {', '.join(RETAIN).upper()}, NONE "
                           f"(the paper's are {', '.join(PAPER)}), or {BASE}.")
    return Method(text.upper(), objective, retain)


PAPER = ("GA_GD", "GA_KL", "NPO_GD", "NPO_KL", "DPO_GD", "DPO_KL", "IDK_AP", "IDK_GD", "IDK_KL", "ME_GD", "ME_KL",
         "ASU_GD", "ASU_KL")  # in the order of the paper's table (arXiv 2603.01285)


def methods(names: Iterable[str] = PAPER) -> list[Method]:
    """Base, then the methods of these names, each once, in the order given."""
    return list(dict.fromkeys([Method(BASE), *map(method, names)]))


def learning_rates(texts: Sequence[str], chosen: Sequence[Method], default: float) -> dict[str, list[float]]:
    """The learning rates of each method.

    Args:
        texts: ``"1e-3,5e-4"`` for all methods, ``"GA_KL=1e-5,3e-5"`` for one, in the place of the others.
        default: for methods of which no text speaks.

    Raises:
        SettingError: no number above 0, or a method that takes no part.
    """
    common: list[float] = []
    own: dict[str, list[float]] = {}
    trained = [each.name for each in chosen if not each.is_base]
    for text in texts:
        name, equals, values = text.rpartition("=")
        if not equals:
            common += _numbers(values, text)
            continue
        if (name := name.strip().upper()) not in trained:
            raise SettingError(f"The learning rate '{text}' is for {name}, which takes no part: the methods are "
                               f"{', '.join(trained) or 'none'}.")
        own.setdefault(name, []).extend(_numbers(values, text))
    return {name: list(dict.fromkeys(own.get(name) or common or [default])) for name in trained}


def plan_runs(chosen: Sequence[Method], rates: Mapping[str, Sequence[float]]) -> list[Run]:
    """Every run in the order it is made: Base first, then method by method."""
    return [run for each in chosen
            for run in ([Run(each)] if each.is_base else [Run(each, lr) for lr in rates[each.name]])]


def lr_text(lr: float) -> str:
    """As short as it can be without another learning rate reading the same."""
    short = f"{lr:g}"
    return (short if float(short) == lr else repr(lr)).replace("+", "")


def _numbers(values: str, text: str) -> list[float]:
    found = []
    for value in values.split(","):
        try:
            lr = float(value)
        except ValueError:
            lr = math.nan
        if not (math.isfinite(lr) and lr > 0):
            raise SettingError(f"The learning rate '{text}' can't be read: write numbers above 0, such as 1e-3,5e-4, "
                               "or NPO_GD=1e-4 for one method.")
        found.append(lr)
    return found
