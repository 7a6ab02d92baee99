"""Retrained: can the model be told from one that was trained without the rows, by that one's log?

TOFU's forget quality: the p-value of a Kolmogorov-Smirnov test between the truth ratios that the two give the rows. It
brings no knowledge back, so that it has no recovered share. Where the log holds the rows never seen, too, the AUC of
Min-K % follows. Attacks that ask anew can't use a log: its model was asked the plain questions alone.
"""

from collections.abc import Sequence

from asu_lora.audit.readings import rate_of, reading
from asu_lora.audit.results import AttackResult, Rate, Reading, Setting
from asu_lora.audit.row_attack import Attack, Found
from asu_lora.audit.session import AuditRow, Session
from asu_lora.data.reference_answers import PERTURBED, reference_answers
from asu_lora.evaluation.intervals import with_interval
from asu_lora.evaluation.likelihoods import Likelihoods, Values
from asu_lora.evaluation.membership import HOLDOUT
from asu_lora.evaluation.metrics.auc import auc
from asu_lora.evaluation.question_sets import FORGET
from asu_lora.evaluation.record import Record
from asu_lora.evaluation.retain_comparison import retain_quality, rows_of

RATIO, MIN_K = "truth_ratio", "min_k"


class Retrained(Attack):
    """The first reading is forget quality, near 0 where the two are told apart; the base's stands as the ceiling. Where
    the log has the never-seen rows too, the AUC of Min-K % follows, with the log's as its floor."""

    name, kind = "retrained", "retrained"
    says = "whether it is told from a model trained without the rows, by its log (--retain-log)"

    def untried(self, session: Session) -> str | None:
        if not session.inputs.retain_log:
            return "No log of a model trained without the rows was given (--retain-log)."
        if not _compared(session):
            return f"Forget quality needs rows with '{PERTURBED}', and a log with their truth ratios."
        return None

    def run(self, session: Session) -> Found:
        rows, theirs = zip(*_compared(session), strict=True)
        own = {role: _values(session, role, rows) for role in ("candidate", "ceiling")}
        after, before = (_quality(own[role], theirs) for role in ("candidate", "ceiling"))
        found = [reading("forget_quality", after, before)]
        notes = [
            "Forget quality is a p-value: below 0.05 the model is told from one trained without the rows. Above, these "
            f"{len(rows)} rows don't tell them apart, which is no proof that nothing would."
        ]
        never_seen = _logged(session.inputs.retain_log, HOLDOUT, session.floor_rows, len(session.inputs.floor))
        if session.floor_rows and never_seen and all(_number(row, MIN_K) for row in (*theirs, *never_seen)):
            found.append(self._apart(session, own, (theirs, never_seen)))
        elif session.floor_rows:
            notes.append("The log has no Min-K % of the rows and of those never seen: no AUC has it for a floor.")
        settings: dict[str, Setting] = {"rows": len(rows), "seed": session.settings.seed}
        result = AttackResult(attack=self.name, kind="retrained", readings=found, settings=settings, notes=notes)
        return Found(result, {})

    def _apart(
        self, session: Session, own: dict[str, list[Values]], log: tuple[Sequence[Record], Sequence[Record]]
    ) -> Reading:
        """The AUC of Min-K % between the rows and those never seen."""
        after, before = (
            _auc(own[role], _values(session, role, session.floor_rows)) for role in ("candidate", "ceiling")
        )
        return reading("auc_min_k", after, before, _auc(*log))


def _compared(session: Session) -> list[tuple[AuditRow, Record]]:
    """The rows with wrong answers beside what the log has of them; empty where it lacks the truth ratio of one."""
    rows = [row for row in session.rows if not row.example.is_passage and reference_answers(row.example, PERTURBED)]
    log = _logged(session.inputs.retain_log, FORGET, rows, len(session.inputs.forget))
    return list(zip(rows, log, strict=True)) if log and all(_number(row, RATIO) for row in log) else []


def _logged(log: Sequence[Record], name: str, rows: Sequence[AuditRow], of: int) -> list[Record]:
    """The log's records of these rows, by texts or, where it has none, by number; empty where one is missing.

    Args:
        of: rows in the file that they are from.
    """
    known = rows_of(log, name)
    if known and all("question" in row and "truth" in row for row in known):
        by_text = {(row["question"], row["truth"]): row for row in known}
        found = [by_text.get((row.example.question, row.example.answer)) for row in rows]
        return [] if None in found else [row for row in found if row is not None]
    return [known[row.number] for row in rows] if len(known) == of else []


def _number(row: Record, name: str) -> bool:
    return isinstance(row.get(name), int | float)


def _values(session: Session, role: str, rows: Sequence[AuditRow]) -> list[Values]:
    """Truth ratio, Min-K and the rest of each row under one model."""
    view = session.view(role)
    session.progress.stage(f"retrained: {role}", len(rows))
    with view.on():
        found = Likelihoods(view.stack, view.encoder).values([row.example for row in rows])
    session.progress.advance(len(rows))
    return found


def _quality(own: Sequence[Values], theirs: Sequence[Record]) -> Rate:
    sides = [[{"set": FORGET, RATIO: row[RATIO]} for row in rows] for rows in (own, theirs)]
    return rate_of(retain_quality(*sides), len(theirs))


def _auc(members: Sequence[Record], others: Sequence[Record]) -> Rate:
    values = ([float(row[MIN_K]) for row in rows] for rows in (members, others))
    return rate_of(with_interval(auc, *values), len(members) + len(others))
