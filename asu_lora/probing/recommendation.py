"""The recommended tau: what ``tau auto`` chooses, if the teacher there still writes sentences."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from asu_lora.calibration import STEP, TauChoice, TauPoint
from asu_lora.probing.answers import OwnAnswers

MOST_GIBBERISH = 0.25  # share of the teacher's own answers that may be gibberish, above the base's share
LEAST_TAU = 1.05  # below it the teacher is the base


@dataclass(frozen=True)
class Recommendation:
    """The recommended temperature of one layer group.

    Attributes:
        layers: the group's name.
        tau: the temperature, None where there is none to recommend.
        auto: what ``asu-lora forget --tau auto`` chooses with these layers, None where it refuses.
        own: the teacher's own answers at ``tau``, None where it wasn't asked (passages).
        reason: one sentence.
        curve: the points that ``auto`` was chosen from.
    """

    layers: str
    tau: float | None
    auto: float | None
    own: OwnAnswers | None
    reason: str
    curve: Sequence[TauPoint] = ()


def recommend(layers: str, choice: TauChoice, speak: Callable[[float], OwnAnswers] | None,
              base: OwnAnswers | None) -> Recommendation:
    """Take the calibrated tau, or the next lower one whose teacher still writes sentences.

    Args:
        choice: what :func:`asu_lora.calibration.choose_tau` chose.
        speak: the teacher's own answers at a tau; None where there is nothing to ask.
        base: the base's own answers.
    """
    if speak is None or base is None:
        return Recommendation(layers, choice.tau, choice.tau, None, choice.reason.rstrip(".") + "; what that teacher "
                              "says could not be looked at, for passages ask nothing.", choice.curve)
    most = base.gibberish_rate + MOST_GIBBERISH
    tau = choice.tau
    own = first = speak(tau)
    while own.gibberish_rate > most and tau / STEP > LEAST_TAU:
        tau = round(tau / STEP, 3)
        own = speak(tau)
    rates = f"(gibberish {own.gibberish_rate:.0%} of its own answers, the base's {base.gibberish_rate:.0%})"
    if own.gibberish_rate > most:
        return Recommendation(layers, None, choice.tau, None, f"No tau down to {tau:g} has a teacher that loses facts "
                              f"and writes sentences {rates}: smooth other layers.", choice.curve)
    if tau == choice.tau:
        reason = f"{choice.reason.rstrip('.')}, and its teacher still writes sentences {rates}."
    else:
        reason = (f"tau {tau:g} is where the teacher still writes sentences {rates} and the NLL of known factual "
                  f"tokens has risen by about {rise_at(choice.curve, tau):.2f} nats: at {choice.tau:g}, which "
                  f"'auto' chooses, {first.gibberish_rate:.0%} of its own answers are gibberish or empty.")
    return Recommendation(layers, tau, choice.tau, own, reason, choice.curve)


def rise_at(curve: Sequence[TauPoint], tau: float) -> float:
    """The rise of the factual NLL at a tau between two points of a curve, nats."""
    for low, high in pairwise(curve):
        if low.tau <= tau <= high.tau:
            return low.factual_rise + (tau - low.tau) / (high.tau - low.tau) * (high.factual_rise - low.factual_rise)
    return curve[-1].factual_rise
