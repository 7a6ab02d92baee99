"""The recommended tau: what ``tau auto`` chooses, if the teacher there still writes sentences."""

from collections.abc import Sequence
from dataclasses import dataclass

from asu_lora.studies.probe.points import ProbePoint
from asu_lora.studies.probe.teacher_answers import TeacherAnswers
from asu_lora.teacher.tau import TauChoice, TauPoint

MOST_GIBBERISH = 0.25  # share of the teacher's own answers that may be gibberish, above the base's share


@dataclass(frozen=True)
class Recommendation:
    """The recommended temperature of one layer group.

    Attributes:
        layers: the group's name.
        tau: the temperature, None where there is none to recommend.
        auto: what ``asu-lora forget --tau auto`` chooses with these layers, None where it refuses.
        own: the teacher's own answers at ``tau``; ``auto_own``, those at ``auto``. None where it wasn't asked.
        reason: one sentence.
        curve: the points that ``auto`` was chosen from.
    """

    layers: str
    tau: float | None
    auto: float | None
    reason: str
    own: TeacherAnswers | None = None
    auto_own: TeacherAnswers | None = None
    curve: Sequence[TauPoint] = ()


def recommend(
    layers: str, choice: TauChoice, own: TeacherAnswers | None, points: Sequence[ProbePoint]
) -> Recommendation:
    """Take the calibrated tau, or the highest probed one below it whose teacher still writes sentences.

    Args:
        choice: what :func:`asu_lora.teacher.tau.choose_tau` chose.
        own: the teacher's own answers at that tau; None where there is nothing to ask (passages).
        points: the group's curve, tau ascending, the first of them the base.
    """
    why = choice.reason.rstrip(".")
    if own is None:
        return Recommendation(
            layers,
            choice.tau,
            choice.tau,
            f"{why}; whether its teacher writes sentences was not looked at, for it was asked nothing.",
            curve=choice.curve,
        )
    base = points[0].own.gibberish_rate
    if own.gibberish_rate <= base + MOST_GIBBERISH:
        return Recommendation(
            layers,
            choice.tau,
            choice.tau,
            f"{why}, and its teacher still writes sentences ({_rates(own, base)}).",
            own,
            own,
            choice.curve,
        )
    lost = (
        f"at {choice.tau:g}, which 'auto' chooses because the facts are gone, {own.gibberish_rate:.0%} of the "
        "teacher's own answers are gibberish or empty"
    )
    speaking = [p for p in points if 1 < p.tau < choice.tau and p.own.gibberish_rate <= base + MOST_GIBBERISH]
    if not speaking:
        reason = (
            f"No probed tau above 1 and below 'auto' has a teacher that writes sentences, and {lost}: probe "
            "lower ones, or smooth other layers."
        )
        return Recommendation(layers, None, choice.tau, reason, None, own, choice.curve)
    best = speaking[-1]
    reason = (
        f"tau {best.tau:g} is the highest probed one below 'auto' whose teacher still writes sentences "
        f"({_rates(best.own, base)}), and the NLL of known factual tokens has risen by {best.factual_rise:.2f} "
        f"nats there; {lost}."
    )
    return Recommendation(layers, best.tau, choice.tau, reason, best.own, own, choice.curve)


def _rates(own: TeacherAnswers, base: float) -> str:
    return f"gibberish {own.gibberish_rate:.0%} of its own answers, the base's {base:.0%}"
