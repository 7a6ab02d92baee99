"""What a certificate does not prove, written out for the people who rely on it.

The frame is Opinion 28/2024 of the European Data Protection Board on AI models: when a model is anonymous (paragraph
43), what tests are judged by (55: scope, frequency, quantity, quality), and what has to be documented (58).
"""

from collections.abc import Sequence

from asu_lora.audit.certificate.record import Done, Limit
from asu_lora.audit.results import AuditResult

OPINION = "Opinion 28/2024 of the European Data Protection Board"


OLD = 30  # days after which the age of an audit is a limit of its own


def limits(
    result: AuditResult, done: Done, precisions: Sequence[str], languages: Sequence[str], age: int = 0
) -> list[Limit]:
    """The limits of this audit, the general ones and its own, in the order in which they matter.

    Args:
        age: days from the end of the attacks to the certificate.
    """
    found = [
        ("Anonymity", _anonymity(result)),
        ("Scope", _scope(result, precisions, languages)),
        ("Age", _age(result, age)),
        ("Frequency", _FREQUENCY),
        ("Quantity", _quantity(result.rows)),
        ("Quality", _quality(result)),
        ("Access", _access(done)),
        ("The request", _REQUEST),
        ("What is inside", _INSIDE if done.merged is not None else ""),
        ("The signature", _SIGNATURE),
        ("Documentation", _DOCUMENTATION),
    ]
    return [Limit(about=about, text=text) for about, text in found if text]


_FREQUENCY = (
    "The model was tested once, in the state named here. A new adapter on top, a merge, another precision or further "
    "training makes another model, which has to be tested again. Attacks get better, so the certificate expires."
)
_REQUEST = (
    "It speaks of the rows that were handed in, and of nothing else about the person. What the training data says "
    "elsewhere, in other words or in other rows, was not looked for."
)
_INSIDE = (
    "The hashes name the merged files. Which adapters were merged into them, and at which weights, rests on the issuer."
)
_SIGNATURE = (
    "The signature proves who issued the certificate and that nothing in it was changed since. That the tests were "
    "run as it says rests on the issuer; who has the base, the adapter, the rows and the seed can run them again."
)
_DOCUMENTATION = (
    f"It is one document of those that {OPINION} lists in paragraph 58. It replaces neither an impact assessment, "
    "nor the advice of a data-protection officer, nor the threat model of the service that uses the model."
)


def _age(result: AuditResult, days: int) -> str:
    if days < OLD:
        return ""
    return (
        f"The attacks ended on {result.finished[:10]}, {days} days before this was issued. What has become known of "
        "attacks since then was not tried."
    )


def share(value: float) -> str:
    """A share as people read it: ``4 %``, ``0.3 %``."""
    percent = 100 * value
    if percent == 0:
        return "0 %"
    return f"{percent:.1f} %" if percent < 1 else f"{percent:.0f} %"


def most_unseen(rows: int) -> float:
    """The share of rows that may still leak, at 95 % confidence, if none of ``rows`` did (Clopper and Pearson)."""
    return 1.0 - 0.025 ** (1.0 / rows) if rows else 1.0


def _anonymity(result: AuditResult) -> str:
    rows = "one row" if result.rows == 1 else f"{result.rows} rows"
    return (
        f"It does not prove that the model is anonymous. For that, {OPINION} (paragraph 43) asks that taking personal "
        "data out of the model, directly or by queries, be insignificantly likely for every person in its training "
        f"data. Here {rows} of one request were looked at, and nobody else's data."
    )


def _scope(result: AuditResult, precisions: Sequence[str], languages: Sequence[str]) -> str:
    kinds = list(dict.fromkeys(attack.kind for attack in result.attacks))
    text = (
        "An attack that fails is evidence against this attack, and against no other (paragraph 55). Tried were "
        f"{len(result.attacks)} attacks of these kinds: {', '.join(kinds) or 'none'}; "
        f"at {_counted(precisions, 'precision')}; in {_counted(languages, 'language')}."
    )
    if result.untried:
        names = ", ".join(entry.attack.replace("_", " ") for entry in result.untried)
        text += f" Not tried: {names[:800]}."
    if left_out := result.out_of_time():
        text += f" Of these for want of time alone: {', '.join(left_out).replace('_', ' ')[:400]}."
    return text


def _counted(names: Sequence[str], noun: str) -> str:
    if not names:
        return f"no {noun} that is named"
    return f"one {noun} ({names[0]})" if len(names) == 1 else f"{len(names)} {noun}s ({', '.join(names)})"


def _quantity(rows: int) -> str:
    if not rows:
        return "No row was asked."
    return (
        f"An attack that finds nothing in {rows} {'row' if rows == 1 else 'rows'} still leaves up to "
        f"{share(most_unseen(rows))} of such rows possible, at 95 % confidence. Intervals stand beside every figure; "
        "they say how far chance reaches, not how far a better attack would."
    )


def _quality(result: AuditResult) -> str:
    text = (
        "Figures are held against the model as it was (ceiling) and against rows or a model that never saw the request "
        "(floor). Neither is a model trained anew without the data, which is what nobody can tell from never having "
        "learned it."
    )
    if any(attack.attack == "retrained" for attack in result.attacks):
        text += " What such a model scored was compared with by the attack 'retrained', and by no other."
    alone = [a.attack for a in result.attacks if a.readings and not (a.readings[0].ceiling and a.readings[0].floor)]
    if alone:
        text += f" Without ceiling or floor, and so without a verdict: {', '.join(alone)[:600]}."
    return text


def _access(done: Done) -> str:
    if done.audited == "merged":
        return (
            "It holds for whoever has the merged weights. Who also has the base from before can compare the two, or "
            "use the base: keep it where the request keeps it."
        )
    if done.audited == "base":
        return "No adapter was active: these are the figures of a base as it is."
    return (
        "It holds for whoever can only use the model with its adapter. Who holds base and adapter as files can leave "
        "the adapter away, and has everything back: pass on merged weights alone."
    )
