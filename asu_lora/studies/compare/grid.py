"""The runs of a comparison: every method, at each of the learning rates and seeds tried for it."""

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from asu_lora.adding_up import ADDS_UP
from asu_lora.config import ForgetConfig
from asu_lora.errors import SettingError
from asu_lora.studies.methods import DEFAULT, Method, file_name, learning_rate, lr_text, shown

_LONG = re.compile(r"\d+\.\d{6,}(e-?\d+)?")  # a drawn number among a loss's own settings


@dataclass(frozen=True)
class Run:
    """One adapter to train and score: a method at a learning rate (None where nothing is trained).

    Attributes:
        changes: further settings in which it differs from the comparison's, by name, in the order of their names.
    """

    method: Method
    lr: float | None = None
    changes: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, method: Method, lr: float | None, changes: Mapping[str, Any]) -> "Run":
        """A run with these changes."""
        return cls(method, lr, tuple(sorted(changes.items())))

    @property
    def name(self) -> str:
        """The adapter's name in the comparison's store, and the row file's."""
        if self.lr is None:
            return self.method.name
        others = {name: value for name, value in self.changes if name != "seed"}
        tail = "-" + hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()[:8] if others else ""
        seed = dict(self.changes).get("seed")
        return f"{file_name(self.method.name)}-lr-{lr_text(self.lr)}{tail}" + ("" if seed is None else f"-seed-{seed}")

    @property
    def title(self) -> str:
        return title_of(self.method.name, self.lr, dict(self.changes))

    def config(self, config: ForgetConfig) -> ForgetConfig:
        """The settings of this run: the comparison's, with the method's losses, learning rate and changes."""
        if self.lr is None:
            raise SettingError(f"{self.method.name} trains nothing.")
        return replace(self.method.config(config), lr=self.lr, eval_rows=0, **dict(self.changes))


def _shorter(number: re.Match[str]) -> str:
    return shown(float(number[0]))


def title_of(method: str, lr: float | None, changes: Mapping[str, Any]) -> str:
    """A run in words: ``NPO_GD, lr 0.001, retain_coeff 2, seed 1``. A drawn number is told to six digits."""
    said = [method] if lr is None else [method, f"lr {shown(lr)}"]
    own = ADDS_UP if method == DEFAULT else {}  # what its name says already
    for name, value in changes.items():
        if name in own and own[name] == value:
            continue
        said.append(f"{name} {value:g}" if isinstance(value, float) else f"{name} {_LONG.sub(_shorter, str(value))}")
    return ", ".join(said)


def weighted(runs: Sequence[Run], config: ForgetConfig, given: Collection[str] = ()) -> list[Run]:
    """Each run with the weights of its method's paper among its changes, where it has none of its own.

    So its name, its hash and its record tell it apart from a run with the comparison's weights.

    Args:
        config: the comparison's settings.
        given: those of them that no paper replaces (:meth:`~asu_lora.studies.methods.Method.weights`).
    """
    return [
        run if run.lr is None else Run.of(run.method, run.lr, run.method.weights(config, given) | dict(run.changes))
        for run in runs
    ]


def seeded(runs: Sequence[Run], seeds: Sequence[int], default: int) -> list[Run]:
    """Each trained run with each of the seeds; one with the comparison's own seed, or without any, stays as it is.

    Raises:
        SettingError: a seed twice, or out of range.
    """
    seeds = list(seeds) or [default]
    if len(set(seeds)) < len(seeds):
        raise SettingError(f"The seeds {', '.join(map(str, seeds))} name one twice.")
    if wrong := [seed for seed in seeds if not 0 <= seed < 2**32]:
        raise SettingError(f"The seed {wrong[0]} must be from 0 to {2**32 - 1}.")
    return [
        each
        for run in runs
        for each in (
            [run]
            if run.method.untrained
            else [
                run if seed == default else Run.of(run.method, run.lr, dict(run.changes) | {"seed": seed})
                for seed in seeds
            ]
        )
    ]


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
    trained = [each.name for each in chosen if not each.untrained]
    for text in texts:
        name, equals, values = text.rpartition("=")
        rates = [learning_rate(value, text) for value in values.split(",")]
        if not equals:
            common += rates
            continue
        if (name := name.strip().upper()) not in trained:
            raise SettingError(
                f"The learning rate '{text}' is for {name}, which takes no part: the methods are "
                f"{', '.join(trained) or 'none'}."
            )
        own.setdefault(name, []).extend(rates)
    theirs = {each.name: [each.lr] for each in chosen if each.lr}  # no part of what is tried for all
    return {name: list(dict.fromkeys(own.get(name) or theirs.get(name) or common or [default])) for name in trained}


def plan_runs(chosen: Sequence[Method], rates: Mapping[str, Sequence[float]]) -> list[Run]:
    """Every run in the order it is made: Base first, then method by method."""
    return [
        run
        for each in chosen
        for run in ([Run(each)] if each.untrained else [Run(each, lr) for lr in rates[each.name]])
    ]
