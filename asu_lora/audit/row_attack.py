"""What attacks have in common: a name, a kind, and figures of candidate, ceiling, floor and control."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from asu_lora.audit.facts import share_said
from asu_lora.audit.models import View
from asu_lora.audit.prompts import Prompt, direct
from asu_lora.audit.readings import LEAST_GAP, Measured, curves, rate, readings, shares
from asu_lora.audit.results import AttackResult, Kind, Setting
from asu_lora.audit.session import FLOORS, AuditRow, Session

MOST_NEW = 200  # tokens of an answer
WORDS = 16  # tokens of a beginning that the true answer hasn't
SAID = ("facts", "rows_leaking", "facts_mean", "leaks")  # figures of what was said


class Attack(ABC):
    """One way of getting at what was forgotten. A class an attack, one line in the registry.

    Attributes:
        name: what ``--attacks`` takes.
        kind: its group.
        says: what is tried, in a line.
        joins: whether it only joins what others found, which takes no time.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    says: ClassVar[str]
    joins: ClassVar[bool] = False

    def untried(self, session: Session) -> str | None:
        """Why it can't be made here, in a sentence; None where it can."""
        return None

    @abstractmethod
    def run(self, session: Session) -> "Found":
        """Make it."""

    def result(self, session: Session, measured: "Roles", axis: str = "", **settings: Setting) -> "Found":
        """Readings of all figures, beside what they are held against."""
        candidate = measured["candidate"]
        assert candidate is not None  # the candidate is what is attacked
        ceiling, floor, control = (measured.get(role) for role in ("ceiling", "floor", "control"))
        notes = [*candidate.notes]
        if floor is not None and (said := FLOORS[session.floor_kind]) not in notes:
            notes.append(said)
        counted = readings(candidate, ceiling, floor, control)
        if not counted:
            notes.append(f"{self.name} found nothing to count: what was asked with says every fact of every row.")
        return Found(
            AttackResult(
                attack=self.name,
                kind=self.kind,
                readings=counted,
                settings={
                    "rows": len(next(iter(candidate.values.values()))),
                    "seed": session.settings.seed,
                    **settings,
                },
                curves=curves(axis, candidate=candidate, control=control, ceiling=ceiling, floor=floor) if axis else {},
                notes=notes,
            ),
            {role: found.values for role, found in measured.items() if found is not None},
            [{"model": role} | record for role, found in measured.items() if found for record in found.records],
        )


Roles = dict[str, Measured | None]


class Found:
    """What an attack gives back.

    Attributes:
        result: goes into the audit's result.
        values: of every role, by figure and row: other attacks and a resumed audit read them.
        records: text, where it was asked for.
        started: when the audit that made it began, where it was an earlier one.
    """

    started: str | None = None

    def __init__(
        self,
        result: AttackResult,
        values: dict[str, dict[str, dict[int, float | None]]],
        records: Sequence[dict[str, object]] = (),
    ):
        self.result, self.values, self.records = result, values, list(records)


class RowAttack(Attack):
    """An attack that measures rows on one model, in the same way whichever it is."""

    @abstractmethod
    def measure(self, session: Session, view: View, rows: Sequence[AuditRow]) -> Measured:
        """Figures of these rows under the model, which is on."""

    def rows(self, session: Session) -> list[AuditRow]:
        """Those that are attacked."""
        return session.rows

    def measured(self, session: Session, role: str, rows: Sequence[AuditRow]) -> Measured:
        """Figures of one role's model."""
        view = session.view(role)
        session.progress.stage(f"{self.name}: {role}", None)
        with view.on():
            return self.measure(session, view, rows)

    def ceiling(self, session: Session, rows: Sequence[AuditRow]) -> Measured | None:
        """The base as it was: attacked alike, or asked directly where that is enough (it answers)."""
        if session.effort.ceiling_alike:
            return self.measured(session, "ceiling", rows)
        view = session.view("ceiling")
        session.progress.stage(f"{self.name}: ceiling", None)
        with view.on():
            return asked_directly(session, view, rows)

    def floor(self, session: Session, rows: Sequence[AuditRow]) -> Measured | None:
        """What a model that never saw the rows gives, attacked alike."""
        if session.floor_kind == "model":
            return self.measured(session, "floor", rows)
        if session.floor_kind == "rows":
            return self.measured(session, "ceiling", session.floor_rows)
        swapped = session.swapped(list(rows))
        return said_only(self.measured(session, "ceiling", swapped)) if swapped else None

    def run(self, session: Session) -> Found:
        rows = self.rows(session)
        found: Roles = {"candidate": self.measured(session, "candidate", rows)}
        found["ceiling"] = self.ceiling(session, rows)
        found["floor"] = self.floor(session, rows)
        if session.models.has("control"):
            found["control"] = self.measured(session, "control", rows)
        notes = self.held_against(session, rows, found)
        notes += [session.control_made.says] if session.control_made else []
        done = self.finished(session, found)
        done.result.notes.extend(notes)
        return done

    def held_against(self, session: Session, rows: Sequence[AuditRow], found: Roles) -> list[str]:
        """Mend a floor or a ceiling that can't tell what came back; sentences on what was mended."""
        return []

    def finished(self, session: Session, found: Roles) -> Found:
        """The result, with this attack's own settings."""
        return self.result(session, found)


def said_only(measured: Measured) -> Measured:
    """Of rows with swapped facts, the figures of what was said: likelihoods are still those of the true answers."""
    values = {figure: each for figure, each in measured.values.items() if figure in SAID}
    return Measured(values, measured.curves, measured.notes, [])


def rooms_for(session: Session, rows: Sequence[AuditRow], prompts: Sequence[Prompt]) -> list[int]:
    """New tokens of each answer: those of the row's true one, by the depth some more, and a few words; at most 200."""
    longest = [len(row.items[0].answer_ids) for row in rows]
    return [min(MOST_NEW, round(longest[prompt.row] * session.effort.room) + WORDS) for prompt in prompts]


def told(
    session: Session, rows: Sequence[AuditRow], prompts: Sequence[Prompt], answers: Sequence[str]
) -> tuple[dict[int, list[float]], list[dict[str, object]]]:
    """By row, the share of its facts that each answer says; and the records, if texts are kept."""
    found: dict[int, list[float]] = {row.number: [] for row in rows}
    records: list[dict[str, object]] = []
    for prompt, answer in zip(prompts, answers, strict=True):
        row = rows[prompt.row]
        share = share_said(answer, row.facts, prompt.given)
        if share is not None:
            found[row.number].append(share)
        if session.texts:
            text = {"row": row.example.row or row.number + 1, "question": row.example.question}
            records.append({**text, "tried": prompt.kind, "given": prompt.given, "answer": answer, "facts": share})
    return found, records


def asked_directly(session: Session, view: View, rows: Sequence[AuditRow]) -> Measured:
    """Facts in the greedy answers to the rows' own questions."""
    prompts = [direct(view.encoder, at, row) for at, row in enumerate(rows)]
    answers = view.ask([prompt.ids for prompt in prompts], rooms_for(session, rows, prompts), session.tick)
    found, records = told(session, rows, prompts, answers)
    facts = {row: max(shares_) if shares_ else None for row, shares_ in found.items()}
    return Measured(shares(facts), records=records)


class Asking(RowAttack):
    """Asks in several ways. A row leaks if any of them leaks: the worst case, with the mean beside it."""

    kind = "asking"

    @abstractmethod
    def prompts(self, session: Session, view: View, rows: Sequence[AuditRow]) -> list[Prompt]:
        """All ways of asking all rows."""

    def measure(self, session: Session, view: View, rows: Sequence[AuditRow]) -> Measured:
        prompts = self.prompts(session, view, rows)
        session.progress.stage(f"{self.name}: {view.role}", len(prompts))
        rooms = rooms_for(session, rows, prompts)
        answers = view.ask([prompt.ids for prompt in prompts], rooms, session.progress.advance)
        found, records = told(session, rows, prompts, answers)
        worst = {row: max(each) if each else None for row, each in found.items()}
        average = {row: sum(each) / len(each) if each else None for row, each in found.items()}
        return Measured(shares(worst, facts_mean=average), records=records)

    def held_against(self, session: Session, rows: Sequence[AuditRow], found: Roles) -> list[str]:
        """Direct questions where this way of asking gets nothing out of floor or base: else a leak could not be told.

        Never-seen rows may have no translation; a base that learned its rows word by word may answer no other words.
        """
        notes, view, floor = [], session.view("ceiling"), found["floor"]
        if session.floor_kind == "rows" and (floor is None or rate(floor.values.get("facts", {})) is None):
            with view.on():
                found["floor"] = floor = asked_directly(session, view, session.floor_rows)
            notes.append("The never-seen rows can't be asked in this way: the floor is theirs when asked directly.")
        ceiling = found["ceiling"]
        if session.effort.ceiling_alike and ceiling is not None and floor is not None:
            with view.on():
                plain = asked_directly(session, view, rows)
            least, alike, direct_ = (rate(each.values.get("facts", {})) for each in (floor, ceiling, plain))
            if least and alike and direct_ and alike.value - least.value < LEAST_GAP and direct_.value > alike.value:
                found["ceiling"] = plain
                notes.append(
                    "Asked in this way, the base tells hardly more than the floor does: the ceiling is what it tells "
                    "when asked directly."
                )
        return notes

    def finished(self, session: Session, found: Roles) -> Found:
        view = session.view("candidate")
        ways = len(self.prompts(session, view, self.rows(session))) / max(1, len(self.rows(session)))
        return self.result(session, found, ways=round(ways, 2))
