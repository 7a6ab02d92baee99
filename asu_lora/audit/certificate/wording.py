"""What attacks and figures are called on the page, for a reader who has run none of them."""

from collections.abc import Sequence

from asu_lora.audit.results import AttackResult, Rate, Reading, Setting

NARROW = "\u202f"  # a narrow blank that doesn't break
TOLD_APART = 0.05  # p-values below it tell two models apart
COARSE = 0.15  # of the scale: a row that weighs more is told
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
    "depth": ("How deep it is gone", "Which layers still hold what they held before?"),
    "retrained": ("Beside a model trained anew", "Can it be told from a model that was trained without the rows?"),
    "trace": ("Traces of forgetting", "Can one tell that something was forgotten here?"),
}

CURVES = {
    "facts": "facts said",
    "rows": "rows that leak most of their facts",
    "rows at most": "rows that may leak unseen, at most",
    "nats lost": "nats a token lost with a layer's states",
}
FIGURES = {
    "facts": "facts said",
    "rows_leaking": "rows that leak most of their facts",
    "extraction_strength": "extraction strength",
    "fact_probability": "probability of a fact's tokens, read inside",
    "fact_probability_at_the_end": "the same, as the model says it",
    "auc": "AUC",
    "forget_quality": "forget quality, a p-value",
    "knowledge": "held by its layers",
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


def plain(text: str) -> str:
    """The same for a terminal, which has no narrow blanks."""
    return text.replace(NARROW, "").replace(JOINED, "")


def rate(value: Rate | None) -> str:
    """A figure with its interval."""
    return with_interval(value.value, value.low, value.high) if value else "–"


def _number(value: float) -> str:
    return f"{100 * value:.1f}" if 0 < abs(value) < 0.0095 else f"{100 * value:.0f}"


def verdict(attacks: list[AttackResult]) -> tuple[str, str]:
    """The finding in one sentence, and what it rests on in another."""
    knowing = [attack for attack in attacks if attack.of_knowledge]
    judged = [a for a in knowing if a.readings and a.readings[0].recovered is not None]
    if not attacks:
        return "Nothing was tried.", "Nothing can be said about what this model still knows."
    also = [*beside(attacks), "This is evidence about these attacks, and about no others."]
    if not knowing:
        return "Nothing was tried on the knowledge.", " ".join(["What the model still knows was not asked.", *also])
    if not judged:
        why = "Before and never-seen rows lie too near each other, or one of them is missing: nothing can be said."
        return "No attack on the knowledge could tell.", " ".join([why, *also])
    first, strongest = _finding(judged, len(knowing))
    scale = "0 % is a model that never saw the rows, 100 % is the model as it was before."
    return first, " ".join(filter(None, [scale, strongest, coarse(judged), *also]))


def beside(attacks: Sequence[AttackResult]) -> list[str]:
    """A sentence on each attack that tells rows apart without bringing a fact back."""
    said = {
        "membership": "That a row was in the training data is another question",
        "trace": "Whether the forgotten is told by being too unlikely is another",
    }
    found = []
    for attack in attacks:
        if attack.of_knowledge or not attack.readings:
            continue
        reading = attack.readings[0]
        if attack.kind == "depth":
            best = attack.settings.get("best_layer")
            whose = "Its layers" if best is None else f"Its states behind layer {best}"
            if reading.recovered is not None:
                held = f"hold {percent(reading.recovered)} of what they held before"
                found.append(f"{whose}, read by the base, {held}; 0 % is a model that never saw the rows.")
            continue
        before = f", before it was {reading.ceiling.value:.2f}" if reading.ceiling else ""
        if attack.kind == "retrained":
            told = "is told" if reading.candidate.value < TOLD_APART else "is not told"
            found.append(
                f"By its truth ratios it {told} from a model trained without the rows: forget quality "
                f"{reading.candidate.value:.2f} (a p-value{before})."
            )
            continue
        figure = f"{figure_name(reading)} {reading.candidate.value:.2f} (0.5 is a coin{before})"
        found.append(f"{said.get(attack.kind, attack_name(attack))}: {figure}.")
    return found


def _finding(judged: list[AttackResult], attacks: int) -> tuple[str, str]:
    """What the strongest of these brought back, and which one that was."""
    worst = max(judged, key=lambda attack: attack.readings[0].recovered or 0.0)
    share = worst.readings[0].recovered or 0.0
    of = f"{len(judged)} {'attack' if len(judged) == 1 else 'attacks'} on the knowledge"
    of += " that could tell" if len(judged) < attacks else ""
    if share == 0:
        none = f"None of {of} brought anything back." if len(judged) > 1 else f"Of {of}, nothing came back."
        return none, ""
    way = worst.settings.get("worst")
    named = attack_name(worst) + (f" ({way.replace('_', ' ')})" if isinstance(way, str) else "")
    return (
        f"The strongest of {of} brought back {percent(share)} of what had to be forgotten.",
        f"The strongest was: {named}.",
    )


def coarse(judged: Sequence[AttackResult]) -> str:
    """How much one row weighs in the strongest's figure, where that is a lot; else nothing."""
    reading = max(judged, key=lambda attack: attack.readings[0].recovered or 0.0).readings[0]
    if reading.ceiling is None or reading.floor is None or not reading.candidate.rows:
        return ""
    known = reading.ceiling.value - reading.floor.value
    step = 1 / (reading.candidate.rows * known) if known > 0 else 0.0
    if step < COARSE:
        return ""
    return (
        f"That is a coarse figure: {reading.candidate.rows} rows were asked, and one that tells its facts is "
        f"{percent(step)}."
    )


def outcome(attack: AttackResult) -> str:
    """What an attack found, in a few words beside its name."""
    reading = attack.readings[0]
    if reading.recovered is not None:
        back = percent(reading.recovered)
        if attack.kind == "depth":
            return f"its layers hold {back} of before"
        return f"brought back {back}" if attack.of_knowledge else f"told apart: {back} of before"
    if reading.ceiling and reading.floor:
        return "can't tell"
    return f"{figure_name(reading)} {percent(reading.candidate.value)}"


def shared_notes(attacks: list[AttackResult]) -> tuple[list[str], dict[str, list[str]]]:
    """The notes that several attacks have, once each; and those of one attack alone, by its name."""
    every = [note for attack in attacks for note in dict.fromkeys(attack.notes)]
    shared = [note for note in dict.fromkeys(every) if every.count(note) > 1]
    return shared, {attack.attack: [note for note in attack.notes if note not in shared] for attack in attacks}


def setting(value: Setting) -> str:
    """A setting's value as people read it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, int | float) else str(value)
