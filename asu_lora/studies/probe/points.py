"""What a probe measures at one temperature in one group of layers."""

from dataclasses import dataclass

from asu_lora.studies.probe.teacher_answers import TeacherAnswers

CLASSES = ("factual", "function", "copied")


@dataclass(frozen=True)
class ProbePoint:
    """One layer group at one temperature.

    Attributes:
        nll: mean NLL of each class of :data:`CLASSES`, nats a token; None for a class without tokens.
        entropy: mean attention entropy where a class's tokens are predicted, over heads and the group's layers,
            nats; None also where the model doesn't give its attention away.
        factual_rise, function_rise: rise of the NLL of the tokens the base knows, nats: what ``auto`` goes by.
        teacher: the smoothed model's own answers; None where no question was asked.
    """

    tau: float
    nll: dict[str, float | None]
    entropy: dict[str, float | None]
    factual_rise: float
    function_rise: float
    teacher: TeacherAnswers | None
