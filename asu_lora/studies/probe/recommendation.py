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
        reason: one sentence.
        teacher: the teacher's answers at ``tau``; ``auto_teacher``, those at ``auto``. None where it wasn't asked.
        curve: the points that ``auto`` was chosen from.
    """

    layers: str
    tau: float | None
    auto: float | None
    reason: str
    teacher: TeacherAnswers | None = None
    auto_teacher: TeacherAnswers | None = None
    curve: Sequence[TauPoint] = ()


def recommend(
    layers: str, choice: TauChoice, teacher: TeacherAnswers | None, points: Sequence[ProbePoint]
) -> Recommendation:
    """Take the calibrated tau, or the highest probed one below it whose teacher still writes sentences.

    Args:
        choice: what :func:`asu_lora.teacher.tau.choose_tau` chose.
        teacher: the teacher's answers at that tau; None where there is nothing to ask (passages).
        points: the group's curve, tau ascending, the first of them the base.
    """
    why, auto = choice.reason.rstrip("."), choice.tau
    if teacher is None or points[0].teacher is None:
        reason = f"{why}; no question was asked, so its teacher's sentences are unchecked."
        return Recommendation(layers, auto, auto, reason, curve=choice.curve)
    base = points[0].teacher.gibberish_rate
    most = base + MOST_GIBBERISH
    if teacher.gibberish_rate <= most:
        reason = f"{why}, and its teacher still writes sentences ({_rates(teacher, base)})."
        return Recommendation(layers, auto, auto, reason, teacher, teacher, choice.curve)
    lost = (
        f"at {auto:g}, which 'auto' chooses because the facts are gone, {teacher.gibberish_rate:.0%} of the "
        "teacher's own answers are gibberish or empty"
    )
    speaking = [
        (point, point.teacher)
        for point in points
        if 1 < point.tau < auto and point.teacher and point.teacher.gibberish_rate <= most
    ]
    if not speaking:
        reason = (
            f"No probed tau above 1 and below 'auto' has a teacher that writes sentences, and {lost}: probe "
            "lower ones, or smooth other layers."
        )
        return Recommendation(layers, None, auto, reason, None, teacher, choice.curve)
    best, answers = speaking[-1]
    reason = (
        f"tau {best.tau:g} is the highest probed one below 'auto' whose teacher still writes sentences "
        f"({_rates(answers, base)}), and the NLL of known factual tokens has risen by {best.factual_rise:.2f} "
        f"nats there; {lost}."
    )
    return Recommendation(layers, best.tau, auto, reason, answers, teacher, choice.curve)


def _rates(answers: TeacherAnswers, base: float) -> str:
    return f"gibberish {answers.gibberish_rate:.0%} of its own answers, the base's {base:.0%}"
