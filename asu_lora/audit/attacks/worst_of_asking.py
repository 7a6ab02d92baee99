"""Every way of asking together: a row leaks if any of them leaks. No new question is asked."""

from asu_lora.audit.readings import Measured, shares
from asu_lora.audit.row_attack import Attack, Found, Roles
from asu_lora.audit.session import Session

PARTS = ("direct", "paraphrases", "insisting", "prefix", "in_context", "translations")
ROLES = ("candidate", "ceiling", "floor", "control")


class WorstOfAsking(Attack):
    """The most of its facts that a row told in any of the ways before, and the same for the controls."""

    name, kind = "worst_of_asking", "asking"
    says = "a row leaks if any way of asking above makes it leak"
    joins = True

    def untried(self, session: Session) -> str | None:
        if sum(name in session.kept for name in PARTS) < 2:
            return "It joins two ways of asking or more, and fewer were made."
        return None

    def run(self, session: Session) -> Found:
        ways = [session.kept[name] for name in PARTS if name in session.kept]
        found: Roles = {}
        for role in ROLES:
            told = [way[role] for way in ways if role in way]
            rows = sorted({row for values in told for row in values})
            worst: dict[int, float | None] = {}
            for row in rows:
                known = [value for values in told if (value := values.get(row)) is not None]
                worst[row] = max(known) if known else None
            found[role] = Measured(shares(worst)) if worst else None
        return self.result(session, found, ways=len(ways))
