"""Attacks that train: tuned for some steps on rows of the attacker's, then asked; the peak over steps and rates.

Candidate and floor are tuned alike, and each has its own peak: the attacker stops when it suits him. The ceiling is
the base as it was, asked directly. The control is the candidate tuned as many steps on other rows.
"""

from abc import abstractmethod
from collections.abc import Sequence
from statistics import fmean

from asu_lora.audit.models import View
from asu_lora.audit.prompts import Prompt, direct
from asu_lora.audit.readings import Measured, shares
from asu_lora.audit.row_attack import Found, Roles, RowAttack, asked_directly, rooms_for, said_only, told
from asu_lora.audit.session import AuditRow, Session
from asu_lora.audit.settings import BATCH
from asu_lora.audit.tuning import tuner
from asu_lora.data.encoding import Encoded
from asu_lora.data.examples import Example

AXIS = "step"


class TunedAttack(RowAttack):
    """Trains on :meth:`material` and asks the rows, at each mark of the depth."""

    kind = "weights"
    most_rates: int | None = None  # only so many of the depth's learning rates, the highest

    def rates(self, session: Session) -> tuple[float, ...]:
        """The learning rates that are tried, in the order of the depth."""
        return session.effort.rates[-self.most_rates :] if self.most_rates else session.effort.rates

    @abstractmethod
    def material(self, session: Session, rows: Sequence[AuditRow]) -> list[Example]:
        """What the attacker trains on."""

    def asked(self, rows: Sequence[AuditRow]) -> list[AuditRow]:
        """The rows that are asked afterwards."""
        return list(rows)

    def measure(self, session: Session, view: View, rows: Sequence[AuditRow]) -> Measured:
        return self.tuned(session, view, self.asked(rows), self.material(session, rows))

    def tuned(self, session: Session, view: View, rows: Sequence[AuditRow], material: Sequence[Example]) -> Measured:
        """Figures of these rows at the mark and rate at which most is told; the curve is that rate's."""
        rates, marks = self.rates(session), session.effort.marks
        items = view.encoder.encode_all(material, "row to tune on")
        session.progress.stage(f"{self.name}: {view.role}", len(rates) * len(marks))
        before = asked_directly(session, view, rows)
        best: Measured | None = None
        top = -1.0
        for rate in rates:
            found, points = self._at_rate(session, view, rows, items, before, rate, material)
            if max(points) > top:
                top, best = max(points), found
        assert best is not None  # every depth has a rate
        return best

    def _at_rate(
        self,
        session: Session,
        view: View,
        rows: Sequence[AuditRow],
        items: Sequence[Encoded],
        before: Measured,
        rate: float,
        material: Sequence[Example],
    ) -> tuple[Measured, list[float]]:
        """The peak, and mean facts at step 0 and every mark."""
        marks = session.effort.marks
        given = " \n ".join(text for example in material for text in (example.question, example.answer))
        prompts = [direct(view.encoder, at, row) for at, row in enumerate(rows)]
        prompts = [Prompt(one.row, one.ids, f"{one.given} \n {given}", one.kind) for one in prompts]
        ids, rooms = [one.ids for one in prompts], rooms_for(session, rows, prompts)
        untouched, records = self._values(session, rows, prompts, view.ask(ids, rooms, session.tick))
        measured = [untouched]
        with tuner(view, items, rate, session.settings.seed) as attacker:
            for mark in marks:
                for step in range(attacker.steps + 1, mark + 1):
                    attacker.train_to(step)
                    session.tick()
                answers = view.ask_anew(ids, rooms, session.tick)
                values, told_now = self._values(session, rows, prompts, answers)
                measured.append(values)
                records += [record | {"step": mark, "rate": rate} for record in told_now]
                session.progress.advance()
        points = [_mean(values) for values in measured]
        peak = measured[points.index(max(points))]
        steps = [0.0, *(float(mark) for mark in marks)]
        return Measured(shares(peak), {AXIS: steps, "facts": points}, records=records), points

    def _values(
        self, session: Session, rows: Sequence[AuditRow], prompts: Sequence[Prompt], answers: Sequence[str]
    ) -> tuple[dict[int, float | None], list[dict[str, object]]]:
        found, records = told(session, rows, prompts, answers)
        return {row: each[0] if each else None for row, each in found.items()}, records

    def ceiling(self, session: Session, rows: Sequence[AuditRow]) -> Measured | None:
        view = session.view("ceiling")
        with view.on():
            return asked_directly(session, view, self.asked(rows))

    def floor(self, session: Session, rows: Sequence[AuditRow]) -> Measured | None:
        if session.floor_kind != "swapped":
            return super().floor(session, rows)
        view = session.view("ceiling")
        swapped = session.swapped(self.asked(rows))
        with view.on():
            return said_only(asked_directly(session, view, swapped)) if swapped else None

    def control(self, session: Session, rows: Sequence[AuditRow]) -> Measured | None:
        """The candidate, tuned as long on other rows; None where this attack's own rows are others already."""
        return None

    def run(self, session: Session) -> Found:
        rows = self.rows(session)
        found: Roles = {"candidate": self.measured(session, "candidate", rows)}
        found["ceiling"] = self.ceiling(session, rows)
        found["floor"] = self.floor(session, rows)
        found["control"] = self.control(session, rows) if session.effort.control else None
        return self.finished(session, found)

    def finished(self, session: Session, found: Roles) -> Found:
        effort = session.effort
        rows = self.rows(session)
        done = self.result(
            session,
            found,
            axis=AXIS,
            trained_on=len(self.material(session, rows)),
            steps=effort.marks[-1],
            rates=", ".join(f"{rate:g}" for rate in self.rates(session)),
            batch=min(BATCH, len(self.material(session, rows))),
        )
        done.result.notes.append(
            "The peak over steps and rates, of candidate and floor each; the ceiling is the base asked directly, "
            "without tuning. Facts that the tuning rows say don't count."
        )
        return done


def _mean(values: dict[int, float | None]) -> float:
    known = [value for value in values.values() if value is not None]
    return fmean(known) if known else 0.0
