"""Membership: can the forgotten rows be told from rows that the model never saw, by how likely it finds them?

The attacks are those of ``asu-lora evaluate --holdout``: loss, Min-K %, Min-K++, zlib and, with a never-trained model,
reference. Each is an AUC and a share of true positives at 1 % false ones.
"""

from collections.abc import Sequence

import numpy as np

from asu_lora.audit.models import View
from asu_lora.audit.readings import rate_of, reading
from asu_lora.audit.results import AttackResult, Rate, Reading, Setting
from asu_lora.audit.row_attack import Attack, Found
from asu_lora.audit.session import AuditRow, Session
from asu_lora.evaluation.membership import ATTACKS, MIN_K, attack_scores
from asu_lora.evaluation.metrics.auc import auc
from asu_lora.evaluation.metrics.reference_loss import reference_loss
from asu_lora.evaluation.record import Record

NO_KNOWLEDGE = 0.5  # the AUC of a guess
TPR = "TPR at 1% FPR"
SHUFFLES = 400  # of which sets a row is from
ONE_IN = 0.05

References = tuple[list[float], list[float]] | None  # a never-trained model's losses of both sets


class Membership(Attack):
    """The first reading is the AUC of the best attack; one of each follows, with its TPR."""

    name, kind = "membership", "membership"
    says = "loss, Min-K, Min-K++, zlib and reference attacks against never-seen rows"

    def untried(self, session: Session) -> str | None:
        if not session.floor_rows:
            return "Members are told from rows that the base never saw: name those with --floor."
        return None

    def run(self, session: Session) -> Found:
        references = _losses(session, "floor") if session.models.has("floor") else None
        scores = {
            role: _scores(session, role, references)
            for role in ("candidate", "ceiling", "floor")
            if session.models.has(role)
        }
        rows = len(session.rows) + len(session.floor_rows)
        chance = Rate(value=NO_KNOWLEDGE, low=NO_KNOWLEDGE, high=NO_KNOWLEDGE, rows=rows)
        found: list[Reading] = []
        for title, own in scores["candidate"].items():
            floor = scores.get("floor", {}).get(title)
            if title.endswith("AUC"):
                floor = floor or chance
            found.append(reading(_figure(title), own, scores["ceiling"].get(title), floor))
        aucs = [one for one in found if one.figure.startswith("auc_")]
        best = max(aucs, key=lambda one: one.candidate.value)
        ceiling = max((one.ceiling for one in aucs if one.ceiling), key=lambda rate: rate.value)
        first = reading("auc", best.candidate, ceiling, self._by_chance(session, references))
        notes = [
            f"The first figure is the best of {len(aucs)} attacks, which lies above 0.5 by chance alone. Its floor is "
            f"what the best stays below in {1 - ONE_IN:.0%} of {SHUFFLES} draws of the same scores, the sets shuffled.",
            "The rows never seen are of other people and things than the forgotten: what differs between the two sets "
            "beyond memory counts too, and a never-trained model (--floor-base) shows how much.",
        ]
        if len(session.floor_rows) < 100:
            notes.append(
                f"{len(session.floor_rows)} never-seen rows can't show a rate of false positives below "
                f"{1 / len(session.floor_rows):.0%}: at 1 %, none of them may lie above the threshold."
            )
        settings: dict[str, Setting] = {
            "rows": len(session.rows),
            "never_seen": len(session.floor_rows),
            "seed": session.settings.seed,
        }
        result = AttackResult(
            attack=self.name, kind="membership", readings=[first, *found], settings=settings, notes=notes
        )
        return Found(result, {})

    def _by_chance(self, session: Session, references: References) -> Rate:
        """What the best attack reaches where there is nothing to tell: its 95 % quantile over shuffled sets."""
        members, others = _both(session, "candidate", references)
        scores = [
            np.array([*own, *theirs])
            for attack in ATTACKS
            if (own := attack.scores(members)) and (theirs := attack.scores(others))
        ]
        random = np.random.default_rng(session.settings.seed)
        best = []
        for _ in range(SHUFFLES):
            order = random.permutation(len(members) + len(others))
            drawn = (each[order].tolist() for each in scores)
            best.append(max(auc(each[: len(members)], each[len(members) :]) for each in drawn))
        low, high = np.quantile(best, [0.025, 0.975])
        value = float(np.quantile(best, 1 - ONE_IN))
        return Rate(value=value, low=float(low), high=max(float(high), value), rows=len(members) + len(others))


def _figure(title: str) -> str:
    name = title.removesuffix(" AUC").removesuffix(f" {TPR}")
    name = name.replace(MIN_K, "min_k").replace("++", "_plus_plus").lower()
    return f"tpr_at_1_fpr_{name}" if title.endswith(TPR) else f"auc_{name}"


def _both(session: Session, role: str, references: References) -> tuple[list[Record], list[Record]]:
    """Records of the forgotten and of the never-seen rows."""
    members, others = (_records(session, role, rows) for rows in (session.rows, session.floor_rows))
    if references is not None and role != "floor":
        for records, losses in zip((members, others), references, strict=True):
            for record, loss in zip(records, losses, strict=True):
                record["reference_loss"] = reference_loss(record["loss"], loss)
    return members, others


def _scores(session: Session, role: str, references: References) -> dict[str, Rate]:
    """AUC and TPR by title, with bootstrap intervals."""
    members, others = _both(session, role, references)
    scores, rows = attack_scores(members, others), len(members) + len(others)
    return {title: rate_of(score, rows) for title, score in scores.items() if score.value is not None}


def _losses(session: Session, role: str) -> tuple[list[float], list[float]]:
    members, others = (_records(session, role, rows) for rows in (session.rows, session.floor_rows))
    return [row["loss"] for row in members], [row["loss"] for row in others]


def _records(session: Session, role: str, rows: Sequence[AuditRow]) -> list[Record]:
    view: View = session.view(role)
    session.progress.stage(f"membership: {role}", len(rows))
    with view.on():
        scores = view.scores([row.example for row in rows], session.progress.advance)
    return [
        {"set": "", "row": row.number, "question": "", "truth": "", **score.membership(row.example.answer)}
        for row, score in zip(rows, scores, strict=True)
    ]
