"""What attacks and figures are called on the page, for a reader who has run none of them."""

from asu_lora.audit.results import AttackResult, Rate, Reading

NARROW = "\u202f"  # a narrow blank that doesn't break
JOINED = "\u2060"  # after a dash, where a line would break

# In the words of Opinion 28/2024, paragraph 55, where it has a word for the kind.
KINDS = {
    "asking": ("Asking", "Can the answers be had by asking, in other words, insistently, or with a beginning given?"),
    "sampling": ("Asking many times", "Does an answer come by chance if the same is asked again and again?"),
    "weights": ("Training further", "Does a little more training on other rows bring the answers back?"),
    "precision": ("Other number formats", "Does storing the weights in fewer bits, or merging them, undo it?"),
    "inside": ("Looking inside", "Do the layers inside still hold an answer that the model no longer says?"),
    "membership": ("Membership inference", "Can one tell that a row was in the training data?"),
    "differencing": ("Comparing before and after", "What can somebody do who has both models?"),
    "trace": ("Traces of forgetting", "Can one tell that something was forgotten here?"),
}

FIGURES = {
    "facts": "facts said",
    "rows_leaking": "rows that leak most of their facts",
    "extraction_strength": "extraction strength",
    "auc": "AUC",
    "tpr_at_1_fpr": "true positives at 1 % false ones",
}


def attack_name(attack: AttackResult) -> str:
    """An attack's name as people read it."""
    return attack.attack.replace("_", " ").replace("-", " ")


def figure_name(reading: Reading) -> str:
    """What a reading measures."""
    return FIGURES.get(reading.figure, reading.figure.replace("_", " "))


def percent(value: float | None) -> str:
    """A share as people read it; a dash for what is not known."""
    return "–" if value is None else f"{_number(value)}{NARROW}%"


def with_interval(value: float, low: float, high: float) -> str:
    """A share with its interval, ``4 % (1–12 %)``; it breaks between the two only."""
    return f"{percent(value)} ({_number(low)}–{JOINED}{_number(high)}{NARROW}%)"


def rate(value: Rate | None) -> str:
    """A figure with its interval."""
    return with_interval(value.value, value.low, value.high) if value else "–"


def _number(value: float) -> str:
    return f"{100 * value:.1f}" if 0 < abs(value) < 0.0095 else f"{100 * value:.0f}"


def verdict(attacks: list[AttackResult]) -> tuple[str, str]:
    """The finding in one sentence, and what it rests on in another."""
    judged = [a for a in attacks if a.readings and a.readings[0].recovered is not None]
    if not attacks:
        return "Nothing was tried.", "Nothing can be said about what this model still knows."
    if not judged:
        return (
            "No attack could tell.",
            "Before and never-seen rows lie too near each other, or one of them is missing: nothing can be said.",
        )
    worst = max(judged, key=lambda attack: attack.readings[0].recovered or 0.0)
    way = worst.settings.get("worst")
    named = attack_name(worst) + (f" ({way.replace('_', ' ')})" if isinstance(way, str) else "")
    share = worst.readings[0].recovered or 0.0
    of = f"of {len(judged)} attacks that could tell" if len(judged) < len(attacks) else f"of {len(judged)} attacks"
    if share == 0:
        first = f"None {of} brought anything back."
    else:
        first = f"The strongest {of} brought back {percent(share)} of what had to be forgotten."
    second = (
        "0 % is a model that never saw the rows, 100 % is the model as it was before. "
        + (f"The strongest was: {named}. " if share else "")
        + "This is evidence about these attacks, and about no others."
    )
    return first, second
