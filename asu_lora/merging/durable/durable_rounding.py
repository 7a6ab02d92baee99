"""A merge that lasts in 4 bit: each updated weight's choices on the NF4 grid are made so that its layer answers
the questions at hand as base + adapters did (see :mod:`asu_lora.merging.durable.choose_codes`)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from asu_lora.bases.source import BaseSource
from asu_lora.data.examples import Example
from asu_lora.data.sampling import sample
from asu_lora.errors import SettingError
from asu_lora.merging.durable.choose_codes import choose, cost, damped
from asu_lora.merging.durable.input_moments import InputMoments
from asu_lora.merging.durable.residual_adapter import Residual, low_rank
from asu_lora.merging.nf4.grid import Grid
from asu_lora.merging.rounding_error import ModuleDurability

Factors = tuple[torch.Tensor, torch.Tensor]

DAMPING = 0.01
AIM = 1.0
TRIES, CLOSE, MOST_GAIN = 3, 0.03, 2.0  # see _aimed
MOST_QUESTIONS = 256  # of each set: more add seconds, not figures


@dataclass(frozen=True)
class DurableSettings:
    """What a durable merge looks at.

    Attributes:
        forget: what the adapters made the base forget; rows with question and answer, or passages.
        retain: what must stay; counts as much as the forget rows, however many they are.
        residual_rank: of a LoRA that carries what rounding lost, 0 for none.
        damping: share of the mean second moment added to every input's own.
        aim: how much of the update to do along its own direction, 1 for all of it. More makes up for what is left
            undone in other directions.
    """

    forget: Sequence[Example]
    retain: Sequence[Example] = ()
    residual_rank: int = 0
    damping: float = DAMPING
    aim: float = AIM

    def __post_init__(self) -> None:
        if not self.forget:
            raise SettingError("A durable merge needs the questions that were to be forgotten: name a file of them.")
        if self.residual_rank < 0:
            raise SettingError(f"The residual rank must be 0 or more, not {self.residual_rank}.")


@dataclass
class DurableRounding:
    """Chooses, module by module, and gathers what that came to and what it left for the residual adapter."""

    settings: DurableSettings
    moments: InputMoments
    modules: list[ModuleDurability] = field(default_factory=list)
    residual: Residual = field(default_factory=Residual)

    def choose(
        self, module: str, grid: Grid, before: torch.Tensor, delta: torch.Tensor, nearest: torch.Tensor
    ) -> torch.Tensor:
        """The choices (out, in) for one weight.

        Args:
            grid: the base's choices.
            before: what the update is added to, (out, in) fp32.
            delta: the update.
            nearest: the values that rounding to nearest would give.
        """
        moment = self.moments.take(module)
        target, held = before + delta, damped(moment, self.settings.damping)
        choices = _aimed(grid, before, delta, moment, held, self.settings.aim)
        residual = None
        if self.settings.residual_rank:
            choices, residual = self._with_residual(grid, choices, target, held)
            self.residual.add(module, *residual)
        values = grid.values(choices)
        update = cost(before + delta, before, moment).sum().clamp_min(torch.finfo(torch.float32).tiny)
        self.modules.append(
            ModuleDurability(
                module,
                (cost(nearest, target, moment).sum() / update).item(),
                (cost(values, target, moment).sum() / update).item(),
                (cost(values + residual[1] @ residual[0], target, moment).sum() / update).item() if residual else None,
                (choices != grid.choices).float().mean().item(),
            )
        )
        return choices

    def _with_residual(
        self, grid: Grid, choices: torch.Tensor, target: torch.Tensor, moment: torch.Tensor
    ) -> tuple[torch.Tensor, Factors]:
        """The base's choices or the moved ones, whichever a residual of this rank completes better, and its factors.

        From the rank of the update on, the base's own choices and the adapter itself leave nothing undone.
        """

        def completed(candidate: torch.Tensor) -> tuple[float, Factors]:
            values = grid.values(candidate)
            a, b = low_rank(target - values, moment, self.settings.residual_rank)
            return cost(values + b @ a, target, moment).sum().item(), (a, b)

        (own, of_own), (moved, of_moved) = completed(grid.choices), completed(choices)
        return (grid.choices, of_own) if own <= moved else (choices, of_moved)


def _aimed(
    grid: Grid, before: torch.Tensor, delta: torch.Tensor, moment: torch.Tensor, held: torch.Tensor, aim: float
) -> torch.Tensor:
    """Choices that do ``aim`` of the update along its own direction: mean <(Q - W) x, D x> = aim mean <D x, D x>.

    Steps that don't pay are left out, so that choices for W + D do a little less everywhere, and layer upon layer
    that adds up to answers that come back. So they are made for W + gain D.
    """
    wanted = delta @ moment
    size = (wanted * delta).sum().clamp_min(torch.finfo(torch.float32).tiny).item()
    gain, off, best = aim, math.inf, grid.choices
    for _ in range(TRIES):
        choices = choose(grid, before + gain * delta, held)
        done = ((grid.values(choices) - before) * wanted).sum().item() / size
        if abs(done - aim) < off:
            off, best = abs(done - aim), choices
        if off < CLOSE:
            break
        gain = min(gain * aim / max(done, aim / MOST_GAIN), MOST_GAIN * aim)
    return best


def prepare(
    settings: DurableSettings,
    source: BaseSource,
    adapters: Sequence[tuple[Path, float]],
    order: Sequence[str],
    trust_remote_code: bool = False,
) -> DurableRounding:
    """Load base + adapters in NF4 and encode the questions.

    Raises:
        BaseModelError, AdapterError, DataError: as loading and encoding do.
    """
    from asu_lora.models.adapter_stack import load
    from asu_lora.models.loading import load_base

    stack = load(load_base(source, "nf4", trust_remote_code=trust_remote_code), adapters)
    encoder = stack.encoder()
    sets = [
        encoder.encode_all(sample(rows, MOST_QUESTIONS), what)
        for rows, what in ((settings.forget, "forget row"), (settings.retain, "retain row"))
    ]
    return DurableRounding(settings, InputMoments(stack, sets, order))
