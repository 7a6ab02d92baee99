"""What an audit found: numbers only, never a word of the request. This is what ``audit.json`` holds.

Everything stands beside what it means nothing without: the ceiling (the base as it was), the floor (a model, or rows,
that never saw the request) and, for attacks that train, a control of the same size and steps.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

AUDIT_NAME = "audit.json"
APART_NAME = "audit.apart.json"  # of other weights, or of fewer attacks, than the one that is certified
SCHEMA_VERSION = 2  # 1 didn't say what was attacked

Kind = Literal[
    "asking", "sampling", "weights", "precision", "inside", "membership", "differencing", "trace", "depth", "retrained"
]
Setting = bool | int | float | str | None
# Telling that a row was trained on, that something was forgotten, or where inside, brings no fact back: told beside.
OTHER_CLAIMS: tuple[Kind, ...] = ("membership", "trace", "depth", "retrained")


class _Found(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rate(_Found):
    """One figure in [0, 1] with its 95 % interval and how many rows it is of."""

    value: float
    low: float
    high: float
    rows: int


class Reading(_Found):
    """One figure of one attack, for the audited model and what it is held against.

    ``recovered`` is ``(candidate - floor) / (ceiling - floor)``, of the values, cut at 0 below; None where ceiling and
    floor are too near each other to tell (under 0.05), or one of them is missing.
    """

    figure: str = Field(description='"facts", "rows_leaking", "extraction_strength", "auc", "tpr_at_1_fpr", ...')
    candidate: Rate
    ceiling: Rate | None = Field(default=None, description="the base as it was, attacked alike")
    floor: Rate | None = Field(default=None, description="never-seen rows or a never-trained model, attacked alike")
    control: Rate | None = Field(default=None, description="an adapter of the same size and steps, other rows")
    recovered: float | None = None


class AttackResult(_Found):
    """All readings of one attack. ``readings[0]`` is the one that counts, for ``--fail-over`` if it is of knowledge."""

    attack: str = Field(description="its name in the registry, which is what --attacks takes")
    kind: Kind
    readings: list[Reading]
    settings: dict[str, Setting] = Field(default_factory=dict, description="budget, seeds, rates, number of samples")
    curves: dict[str, list[float]] = Field(default_factory=dict, description="by step, layer or k; first their axis")
    notes: list[str] = Field(default_factory=list, description="what limits the claim, in sentences without the text")
    seconds: float = 0.0

    @property
    def of_knowledge(self) -> bool:
        """Whether it tries to get facts back, and not only to tell that they were there."""
        return self.kind not in OTHER_CLAIMS


class Untried(_Found):
    """An attack that was not made, and why."""

    attack: str
    reason: str
    out_of_time: bool = Field(default=False, description="whether the budget was spent: without one it is made")


class MadeControl(_Found):
    """A control that the audit trained itself (``--control auto``): as the audited adapter was, on other rows."""

    rows: int = Field(description="that it was made to forget")
    rows_from: Literal["kept", "general"] = Field(description="the person's --retain, or the built-in questions")
    steps: int
    rank: int

    @property
    def says(self) -> str:
        whose = "kept rows" if self.rows_from == "kept" else "built-in general questions"
        return (
            f"The control was trained by the audit itself, with the audited adapter's settings, on {self.rows} {whose} "
            f"(rank {self.rank}, {self.steps} steps)."
        )


class Attacked(_Found):
    """What was attacked, by hashes that were taken as it was loaded. Those of rows are keyed: no guess is confirmed."""

    adapters: list[dict[str, str]] = Field(
        description="{file: sha256} of each adapter, in order, without card and manifest"
    )
    merged: dict[str, str] | None = Field(default=None, description="the same of a merged folder")
    rows: int = Field(description="of the request as it was handed in; some of them are asked")
    request: str | None = Field(default=None, description="keyed hash of these rows; None where no store could key it")


class AuditResult(_Found):
    """One audit of one adapter, stack or merged folder."""

    schema_version: int = SCHEMA_VERSION
    audited: str = Field(description='"adapter", "stack", "merged" or "base"')
    names: list[str] = Field(description="the adapters' names; empty for a folder or a base")
    weights: list[float] = Field(
        default_factory=list, description="at which each adapter was active; empty, of earlier audits: 1 each"
    )
    precision: str
    seed: int
    rows: int
    started: str
    finished: str
    attacks: list[AttackResult]
    untried: list[Untried] = Field(default_factory=list)
    control_made: MadeControl | None = Field(default=None, description="None: a control was named, or there is none")
    attacked: Attacked | None = Field(default=None, description="None: of an earlier version")
    mark: str | None = Field(default=None, description="of the store whose audit wrote this, over all of it")

    @model_validator(mode="after")
    def _a_weight_a_name(self) -> Self:
        if self.weights and len(self.weights) != len(self.names):
            raise ValueError("it has another number of weights than of adapters")
        return self

    def stacked(self) -> list[tuple[str, float]]:
        """Names and weights of the adapters, in order."""
        return list(zip(self.names, self.weights or [1.0] * len(self.names), strict=True))

    def out_of_time(self) -> list[str]:
        """Names of the attacks that were left out for want of time."""
        return [untried.attack for untried in self.untried if untried.out_of_time]

    def judged(self) -> list[AttackResult]:
        """The attacks on knowledge whose first reading tells how much came back."""
        return [
            attack
            for attack in self.attacks
            if attack.of_knowledge and attack.readings and attack.readings[0].recovered is not None
        ]

    def strongest(self) -> AttackResult | None:
        """The attack on knowledge whose first reading recovered most; None where none could tell.

        Membership and traces never are it: an AUC of 1 says that rows are told apart, and no fact of them.
        """
        told = self.judged()
        return max(told, key=lambda attack: attack.readings[0].recovered or 0.0, default=None)

    def worst(self) -> float | None:
        """The most knowledge that any attack's first reading recovered; None where no attack could tell."""
        strongest = self.strongest()
        return strongest.readings[0].recovered if strongest else None
