"""Trace: can a simple classifier tell that something was forgotten here?

A fact that was ruled out may end below what a stranger's fact has. Then the hole itself tells on the request: rows are
sorted by how likely their factual tokens are, and forgotten ones stand at the low end. It recovers no knowledge, so
that it has no recovered share.
"""

from collections.abc import Sequence
from statistics import fmean

import torch

from asu_lora.audit.factual_tokens import factual_tokens
from asu_lora.audit.models import View
from asu_lora.audit.readings import rate, rate_of, reading
from asu_lora.audit.results import AttackResult, Rate, Reading, Setting
from asu_lora.audit.row_attack import Attack, Found
from asu_lora.audit.session import AuditRow, Session
from asu_lora.evaluation.intervals import with_interval
from asu_lora.evaluation.metrics.auc import auc

LOWEST = 0.05  # the quantile of strangers' tokens below which a token is told by its absence


class Trace(Attack):
    """The first reading is how well forgotten rows are told from never-seen ones by their absence (AUC); the base's own
    stands as the ceiling, since the two sets differ in more than memory."""

    name, kind = "trace", "trace"
    says = "whether the forgotten is told by being less likely than a stranger's"

    def untried(self, session: Session) -> str | None:
        if not session.floor_rows:
            return "A trace shows beside strangers' rows: name rows that the base never saw with --floor."
        return None

    def run(self, session: Session) -> Found:
        own = _logprobs(session, "candidate", session.rows)
        strangers = _logprobs(session, "candidate", session.floor_rows)
        base_own = _logprobs(session, "ceiling", session.rows)
        base_strangers = _logprobs(session, "ceiling", session.floor_rows)
        threshold = _quantile([value for row in strangers for value in row], LOWEST)
        below = {at: float(fmean(value < threshold for value in row)) for at, row in enumerate(own)}
        under = rate({at: value for at, value in below.items()})
        assert under is not None  # there are rows
        found: list[Reading] = []
        for figure, of_row in (("auc", fmean), ("auc_of_the_least_likely", min)):
            here, there = (_auc(pair, of_row) for pair in ((own, strangers), (base_own, base_strangers)))
            found.append(reading(figure, here, ceiling=there))
        found.append(reading("tokens_below_strangers", under))
        notes = [
            "0.5: forgotten rows can't be told from never-seen ones; near 1: they are told by being too unlikely; near "
            "0: they are still more likely than strangers. The ceiling is the base before.",
            f"tokens_below_strangers: factual tokens less likely than the least {LOWEST:.0%} of strangers'.",
        ]
        settings: dict[str, Setting] = {"rows": len(own), "never_seen": len(strangers), "seed": session.settings.seed}
        result = AttackResult(attack=self.name, kind="trace", readings=found, settings=settings, notes=notes)
        return Found(result, {})


def _auc(pair: "tuple[list[list[float]], list[list[float]]]", of_row: object) -> Rate:
    assert callable(of_row)
    own, strangers = ([-float(of_row(row)) for row in rows] for rows in pair)
    return rate_of(with_interval(auc, own, strangers), len(own) + len(strangers))


def _quantile(values: Sequence[float], share: float) -> float:
    return float(torch.tensor(sorted(values), dtype=torch.float64).quantile(share))


def _logprobs(session: Session, role: str, rows: Sequence[AuditRow]) -> list[list[float]]:
    """By row, the log-probabilities of its factual tokens, nats."""
    view: View = session.view(role)
    session.progress.stage(f"trace: {role}", len(rows))
    items = [view.encoder.encode(row.example, row.number)[0] for row in rows]
    with view.on():
        scores = view.scores([row.example for row in rows])
    found = []
    for row, item, score in zip(rows, items, scores, strict=True):
        wanted = torch.tensor(factual_tokens(view, item, row))
        found.append(score.logprobs.cpu()[: len(wanted)][wanted].tolist())
        session.progress.advance()
    return found
