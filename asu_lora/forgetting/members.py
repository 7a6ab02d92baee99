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
        adapter, phases: there once it has been taken up.
    """

    name: str
    open: ExitStack
    run: ForgetRun
    sets: dict[str, TrainingSet] = field(default_factory=dict)
    adapter: LooseAdapter = field(init=False, repr=False)
    phases: tuple[Phase, Phase | None] = field(init=False, repr=False)
    before: dict[str, SetScores] = field(default_factory=dict)
    after: dict[str, SetScores] = field(default_factory=dict)


class Members:
    """The requests that are still on their way, and what became of the others."""

    def __init__(self) -> None:
        self.going: dict[str, Member] = {}
        self.ended: dict[str, ForgetResult | AsuLoraError] = {}

    def each(self, step: Callable[[Member], None]) -> None:
        """Do a step for every one; one that fails leaves, and the others go on."""
        for member in list(self.going.values()):
            try:
                step(member)
            except AsuLoraError as error:
                self.fail(member, error)

    def fail(self, member: Member, error: AsuLoraError) -> None:
        """The end of one request: what it had open is closed as after this error."""
        self.going.pop(member.name, None)
        self.ended[member.name] = error
        member.open.__exit__(type(error), error, error.__traceback__)
