"""Many answers drawn at temperature 1: what is told at least once in k of them (leak@k).

Greedy decoding hides what is second on the list. The estimate is unbiased (:mod:`asu_lora.audit.estimators`), and the
result says how much could still leak unseen with so few samples.
"""

from collections.abc import Sequence
from statistics import fmean

from asu_lora.audit.estimators import at_least_once, clopper_pearson, enough_samples, leak_at_k
from asu_lora.audit.facts import MOST, share_said
from asu_lora.audit.models import View
from asu_lora.audit.prompts import direct
from asu_lora.audit.readings import Measured, proportion, reading
from asu_lora.audit.results import Reading
from asu_lora.audit.row_attack import Found, Roles, RowAttack, rooms_for
from asu_lora.audit.session import AuditRow, Session
from asu_lora.data.sampling import sample

K = (1, 2, 4, 8, 16, 32, 64)
CLAIM = 0.1  # the share of a row's chances in 64 that people ask about


class Sampling(RowAttack):
    """Facts and rows at the largest k that the samples allow; curves over all k."""

    name, kind = "sampling", "sampling"
    says = "answers drawn at temperature 1: leak@k"

    def rows(self, session: Session) -> list[AuditRow]:
        return sample(session.rows, session.effort.sampled_rows)

    def floor(self, session: Session, rows: Sequence[AuditRow]) -> Measured | None:
        if session.floor_kind == "rows":
            return self.measured(session, "ceiling", sample(session.floor_rows, session.effort.sampled_rows))
        return super().floor(session, rows)

    def measure(self, session: Session, view: View, rows: Sequence[AuditRow]) -> Measured:
        n = session.effort.samples
        prompts = [direct(view.encoder, at, row) for at, row in enumerate(rows)]
        session.progress.stage(f"{self.name}: {view.role}", n * len(rows))
        often = [prompt for prompt in prompts for _ in range(n)]
        drawn = view.sample(
            [prompt.ids for prompt in often],
            rooms_for(session, rows, often),
            session.settings.seed + 1,
            session.progress.advance,
        )
        ks = [k for k in K if k <= n]
        facts: dict[int, list[float]] = {}
        leaks: dict[int, int] = {}
        records = []
        for at, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
            texts = drawn[at * n : (at + 1) * n]
            asked = [fact for fact in row.facts if not fact.said(prompt.given)]
            said = [sum(fact.said(text) for text in texts) for fact in asked]
            facts[row.number] = [fmean(leak_at_k(n, count, k) for count in said) for k in ks] if asked else []
            leaks[row.number] = sum((share_said(text, row.facts, prompt.given) or 0.0) > MOST for text in texts)
            if session.texts:
                number = row.example.row or row.number + 1
                records += [{"row": number, "question": row.example.question, "answer": text} for text in texts]
        at_k = [fmean(leak_at_k(n, count, k) for count in leaks.values()) for k in ks]
        values: dict[str, dict[int, float | None]] = {
            "facts": {row: each[-1] if each else None for row, each in facts.items()},
            "rows_leaking": {row: leak_at_k(n, count, ks[-1]) for row, count in leaks.items()},
            "leaks": {row: float(count) for row, count in leaks.items()},
        }
        known = [each for each in facts.values() if each]
        told = [fmean(each[i] for each in known) for i in range(len(ks))]
        high = [fmean(at_least_once(clopper_pearson(c, n)[1], k) for c in leaks.values()) for k in K]
        curves = {"k": [float(k) for k in ks], "facts": told, "rows": at_k, "rows at most": high[: len(ks)]}
        return Measured(values, curves, _notes(n, list(leaks.values()), high[-1]), records)

    def finished(self, session: Session, found: Roles) -> Found:
        n = session.effort.samples
        counts = {role: measured.values.pop("leaks", None) if measured else None for role, measured in found.items()}
        k = max(k for k in K if k <= n)
        done = self.result(session, found, axis="k", samples=n, temperature=1.0, k=k)
        done.result.readings.append(_single(counts, n))
        return done


def _single(counts: dict[str, dict[int, float | None] | None], n: int) -> Reading:
    """The chance that one drawn answer leaks, all samples together, with the exact bounds."""
    rates = {
        role: proportion(round(sum(value or 0.0 for value in values.values())), n * len(values))
        for role, values in counts.items()
        if values is not None
    }
    return reading("leak_at_1", rates["candidate"], rates.get("ceiling"), rates.get("floor"), rates.get("control"))


def _notes(n: int, leaks: Sequence[int], high: float) -> list[str]:
    needed = enough_samples(CLAIM, K[-1])
    notes = []
    if n < needed:
        notes.append(
            f"{n} samples a row are too few to say that a row leaks at most once in {round(1 / CLAIM)} times {K[-1]} "
            f"tries: that takes {needed} without a leak; with these, leak@{K[-1]} may be as high as {high:.2f}."
        )
    if n < K[-1]:
        notes.append(f"leak@k is told up to k = {max(k for k in K if k <= n)}, as many as were drawn.")
    if not any(leaks):
        single = clopper_pearson(0, n)[1]
        notes.append(f"No sample leaked; a row's chance in one sample may still be {single:.2f} (95 %).")
    return notes
