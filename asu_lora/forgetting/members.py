"""Requests that are trained at once: what each has so far, and what became of those that left."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from asu_lora.errors import AsuLoraError
from asu_lora.evaluation.set_scores import SetScores
from asu_lora.forgetting.result import ForgetResult
from asu_lora.forgetting.run import ForgetRun
from asu_lora.losses import TrainingSet
from asu_lora.training.per_row import LooseAdapter
from asu_lora.training.phases import Phase


@dataclass
class Member:
    """One request on its way.

    Attributes:
        open: what is undone when it leaves, whether it is done or fails.
    """

    name: str
    open: ExitStack
    run: ForgetRun
    sets: dict[str, TrainingSet] = field(default_factory=dict)
    adapter: LooseAdapter | None = None
    phases: tuple[Phase, Phase | None] | None = None
    before: dict[str, SetScores] = field(default_factory=dict)
    after: dict[str, SetScores] = field(default_factory=dict)

    @property
    def loose(self) -> LooseAdapter:
        assert self.adapter is not None  # it has come so far
        return self.adapter

    @property
    def plan(self) -> tuple[Phase, Phase | None]:
        assert self.phases is not None
        return self.phases


class Members:
    """The requests that are still on their way, and what became of the others."""

    def __init__(self) -> None:
        self.going: dict[str, Member] = {}
        self.ended: dict[str, ForgetResult | AsuLoraError] = {}

    def each(self, step: Callable[[Member], None]) -> None:
        """Do a step for every one; one that fails leaves, and the others go on."""
        for name in list(self.going):
            try:
                step(self.going[name])
            except AsuLoraError as error:
                self.fail(self.going.pop(name), error)

    def fail(self, member: Member, error: AsuLoraError) -> None:
        """The end of one request: what it had open is closed as after this error."""
        self.going.pop(member.name, None)
        self.ended[member.name] = error
        member.open.__exit__(type(error), error, error.__traceback__)
