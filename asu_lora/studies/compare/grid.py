"""The runs of a comparison: every method, at each of the learning rates tried for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from asu_lora.config import ForgetConfig
from asu_lora.errors import SettingError
from asu_lora.studies.methods import BASE, Method, file_name, learning_rate, lr_text


@dataclass(frozen=True)
class Run:
    """One adapter to train and score: a method at a learning rate (None for Base)."""

    method: Method
    lr: float | None = None

    @property
    def name(self) -> str:
        """The adapter's name in the comparison's store, and the row file's."""
        return BASE if self.lr is None else f"{file_name(self.method.name)}-lr-{lr_text(self.lr)}"

    @property
    def title(self) -> str:
        return BASE if self.lr is None else f"{self.method.name}, lr {lr_text(self.lr)}"

    def config(self, config: ForgetConfig) -> ForgetConfig:
        """The settings of this run: the comparison's, with the method's losses and learning rate."""
        if self.lr is None:
            raise SettingError(f"{BASE} trains nothing.")
        return replace(self.method.config(config), lr=self.lr, eval_rows=0)


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
    return {name: list(dict.fromkeys(own.get(name) or common or [default])) for name in trained}


def plan_runs(chosen: Sequence[Method], rates: Mapping[str, Sequence[float]]) -> list[Run]:
    """Every run in the order it is made: Base first, then method by method."""
    return [
        run for each in chosen for run in ([Run(each)] if each.is_base else [Run(each, lr) for lr in rates[each.name]])
    ]
