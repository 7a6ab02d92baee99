"""One audit while it runs: the rows, the models, and what attacks leave to one another."""

from dataclasses import dataclass, field
from functools import cached_property

from asu_lora.audit.deadline import Deadline
from asu_lora.audit.donors import Donors
from asu_lora.audit.facts import Fact, check_marks, facts_of
from asu_lora.audit.insisting import Insisting
from asu_lora.audit.models import Models, View
from asu_lora.audit.results import MadeControl
from asu_lora.audit.settings import AuditSettings, Effort
from asu_lora.data.encoding import Encoded, Encoder
from asu_lora.data.examples import Example
from asu_lora.data.paraphrases import Paraphrases
from asu_lora.data.sampling import sample
from asu_lora.errors import DataError
from asu_lora.evaluation.record import Record
from asu_lora.progress import Progress

FLOORS = {
    "model": "The floor is a model that never saw the request.",
    "rows": "The floor is what the base says of rows like these that it never saw.",
    "swapped": "No never-seen rows and no never-trained model were given: the floor is how often the base's answers "
    "tell facts of other rows by chance, which is lower than what a stranger guesses, so recovered is an upper bound.",
}


@dataclass(frozen=True)
class Inputs:
    """The rows that an audit was given.

    Attributes:
        retain_given: whether ``retain`` is the person's own; else it is the built-in general set.
        paraphrases: more ways to ask, of a user's file.
        insisting: more ways to insist, for every row.
        retain_log: what a model trained without the rows scored (:mod:`asu_lora.evaluation.retain_log`).
    """

    forget: list[Example]
    retain: list[Example]
    retain_given: bool = False
    floor: list[Example] = field(default_factory=list)
    paraphrases: Paraphrases = field(default_factory=lambda: Paraphrases({}))
    insisting: tuple[Insisting, ...] = ()
    retain_log: list[Record] = field(default_factory=list)
    tune_on: list[Example] = field(default_factory=list)
    general: list[Example] = field(default_factory=list)


@dataclass(frozen=True)
class AuditRow:
    """One row under attack.

    Attributes:
        number: in its set, from 0.
        items: as the encoder wrote it; several for a long passage.
        facts: what counts as a leak; those of another row, in a swapped floor.
    """

    number: int
    example: Example
    items: tuple[Encoded, ...]
    facts: tuple[Fact, ...]


@dataclass
class Session:
    """Everything that an attack works with.

    Attributes:
        kept: values of rows that finished attacks found: attack, then role, then row.
        texts: whether attacks keep what was asked and answered.
        control_made: the control, where the audit trained it.
    """

    inputs: Inputs
    models: Models
    settings: AuditSettings
    progress: Progress = field(default_factory=Progress)
    texts: bool = False
    control_made: MadeControl | None = None
    kept: dict[str, dict[str, dict[int, float | None]]] = field(default_factory=dict)

    @property
    def effort(self) -> Effort:
        return self.settings.effort

    @property
    def encoder(self) -> Encoder:
        return self.models.encoder

    @cached_property
    def all_rows(self) -> list[AuditRow]:
        """Every row of the request that has a fact.

        Raises:
            DataError: none has one.
        """
        found = self._rows(self.inputs.forget)
        if not found:
            raise DataError.plain(
                "No row of the request has a fact of its own: every answer says what its question says already. Mark "
                "what counts with a column 'spans'."
            )
        return found

    @property
    def without_facts(self) -> int:
        """Rows that no attack can ask for anything."""
        return len(self.inputs.forget) - len(self.all_rows)

    @property
    def rows(self) -> list[AuditRow]:
        """Those that are attacked."""
        return sample(self.all_rows, self.effort.rows)

    @cached_property
    def floor_kind(self) -> str:
        if self.models.has("floor"):
            return "model"
        return "rows" if self.floor_rows else "swapped"

    @cached_property
    def floor_rows(self) -> list[AuditRow]:
        """Never-seen rows, no more than are attacked."""
        return sample(self._rows(self.inputs.floor), self.effort.rows)

    @cached_property
    def donors(self) -> Donors:
        """Kept rows whose facts stand in for those of the forgotten in a swapped floor.

        Raises:
            DataError: the marks of one can't be read.
        """
        found = sample(self.inputs.retain, 200)
        for example in found:
            check_marks(example)
        return Donors(found, self._row)

    def swapped(self, rows: list[AuditRow]) -> list[AuditRow]:
        """The rows with facts of kept rows: what is found of them is chance."""
        donors = self.donors.spread(len(rows))
        return [
            AuditRow(row.number, row.example, row.items, donor.facts) for row, donor in zip(rows, donors, strict=False)
        ]

    @property
    def time_is_spent(self) -> bool:
        return isinstance(self.progress, Deadline) and self.progress.passed

    def tick(self, done: int = 0) -> None:
        """Something was done that no bar counts: where the audit's time is spent, the attack ends here."""
        self.progress.advance(0)

    def view(self, role: str) -> View:
        return self.models.view(role)

    def _rows(self, examples: list[Example]) -> list[AuditRow]:
        return [row for number, example in enumerate(examples) if (row := self._row(number, example)) is not None]

    def _row(self, number: int, example: Example) -> AuditRow | None:
        """None for a row without a fact of its own."""
        items = tuple(self.encoder.encode(example, number))
        facts = facts_of(example, items, self.encoder.tokenizer)
        # marked spans may stand in the question: where all do, no answer can leak
        return AuditRow(number, example, items, facts) if any(not f.said(example.question) for f in facts) else None
