"""The probe: what each class of answer tokens loses as attention is heated, by forward passes alone.

forget set -> classes of its answer tokens -> NLL, attention entropy and teacher's answers for every layer group and
tau -> recommended tau, by the code of ``asu-lora forget --tau auto``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from transformers import PreTrainedModel

from asu_lora.data.encoding import Encoded, Encoder, cut_note, encoder_for
from asu_lora.data.examples import Example
from asu_lora.data.row_format import RowFormat
from asu_lora.data.sampling import sample
from asu_lora.data.token_classes import TokenClass, token_classes
from asu_lora.errors import DataError, SettingError
from asu_lora.models.loading import LoadedBase
from asu_lora.progress import Progress
from asu_lora.studies.probe.attention_entropy import answer_attention
from asu_lora.studies.probe.grid import (
    DEFAULT_GROUPS,
    DEFAULT_TAUS,
    LayerGroup,
    default_group,
    layer_groups,
    parse_taus,
)
from asu_lora.studies.probe.points import CLASSES, ProbePoint
from asu_lora.studies.probe.recommendation import Recommendation, recommend
from asu_lora.studies.probe.teacher_answers import TeacherAnswers, teacher_answers
from asu_lora.teacher import tau as calibration
from asu_lora.teacher.tau import KnownTokens, TauChoice, answer_nll, choose_tau

MOST_ANSWERS = 20


@dataclass
class Probe:
    """What was measured, without any text of the request.

    Attributes:
        curves: the points of every layer group, tau ascending; the first is the base, tau 1.
        tokens: how many answer tokens each class has.
        rows, answers: rows that were looked at, questions that were asked.
        question_words: whether the question's own words were counted apart or as function words.
    """

    base: str
    precision: str
    rows: int
    answers: int
    question_words: str
    tokens: dict[str, int]
    curves: list[tuple[LayerGroup, list[ProbePoint]]]
    recommended: Recommendation
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ProbeConfig:
    """What a probe looks at.

    Attributes:
        taus: temperatures of at least 1; 1, the base, is always among them. None: the default grid.
        layers: groups of layers (see :func:`~asu_lora.studies.probe.grid.layer_groups`).
        question_words: ``"apart"``: a class of their own; ``"function"``: among the function words. The
            recommended tau leaves them out of account either way, as ``tau auto`` does.
        rows: the most rows of the forget set to look at, spread evenly.
        answers: the most questions that the smoothed model answers itself, 0 for none.
        written: how rows are written: length, system prompt, date.
    """

    taus: Sequence[float] | None = None
    layers: Sequence[str] = DEFAULT_GROUPS
    question_words: str = "apart"
    rows: int = calibration.MOST_ROWS
    answers: int = MOST_ANSWERS
    written: RowFormat = field(default_factory=RowFormat)

    def temperatures(self) -> list[float]:
        """The temperatures, ascending, the first of them 1."""
        return parse_taus(DEFAULT_TAUS) if self.taus is None else sorted({1.0, *self.taus})


def probe(
    examples: Sequence[Example], base: LoadedBase, config: ProbeConfig | None = None, progress: Progress | None = None
) -> Probe:
    """Probe a frozen base on a forget set.

    Args:
        examples: the forget set. A row's field ``spans`` names its facts itself.
        config: what to look at.

    Raises:
        DataError: nothing to probe, or spans that can't be read.
        SettingError: a group of layers that the base doesn't have.
        SmoothingError: a base, or a layer, that can't be smoothed.
    """
    config, progress = config or ProbeConfig(), progress or Progress()
    if not examples:
        raise DataError("There is nothing to probe: the forget set is empty.")
    count = base.number_of_layers
    groups = layer_groups(config.layers, count)
    rows = _Rows.read(examples, base, config)
    run = _Run(base, rows, config, progress)
    cut = cut_note(rows.items, rows.encoder.max_length, "forget", "looked at")
    run.notes += [*rows.encoder.notes(), *([cut] if cut else [])]
    curves = [(group, run.curve(group, config.temperatures())) for group in groups]
    chosen = default_group(groups, count)
    recommended = run.recommendation(*next(found for found in curves if found[0] == chosen))
    progress.close()
    return Probe(
        base.source.name,
        base.precision,
        len({item.example for item in rows.items}),
        len(rows.asked),
        config.question_words,
        {name: int(mask.sum()) for name, mask in run.masks.items()},
        curves,
        recommended,
        run.notes,
    )


@dataclass(frozen=True)
class _Rows:
    """The rows that a probe looks at.

    Attributes:
        encoder: of the base's tokenizer.
        items, kinds: the rows, and the class of every answer token of all of them, (T,).
        calibrated: the rows that 'forget' chooses tau from, with their classes; these, where fewer were asked for.
        asked: the questions that the smoothed model answers itself.
    """

    encoder: Encoder
    items: list[Encoded]
    kinds: torch.Tensor
    calibrated: tuple[list[Encoded], list[list[TokenClass]]]
    asked: list[Example]

    @classmethod
    def read(cls, examples: Sequence[Example], base: LoadedBase, config: ProbeConfig) -> "_Rows":
        """Encode the examples and take the rows that are looked at, spread evenly."""
        encoder = encoder_for(base.tokenizer, base.model.config, config.written)
        everything = encoder.encode_all(examples, "forget row")
        classes = [token_classes(item, examples[item.example], base.tokenizer) for item in everything]
        at = sample(range(len(everything)), config.rows)
        items = [everything[i] for i in at]
        calibrated = range(len(everything)) if config.rows >= calibration.MOST_ROWS else at
        questions = [examples[i] for i in sorted({item.example for item in items}) if not examples[i].is_passage]
        return cls(
            encoder,
            items,
            torch.tensor([kind for i in at for kind in classes[i]]),
            ([everything[i] for i in calibrated], [classes[i] for i in calibrated]),
            sample(questions, config.answers),
        )


class _Run:
    """What the measurements of one probe share."""

    def __init__(self, base: LoadedBase, rows: _Rows, config: ProbeConfig, progress: Progress):
        self.base, self.rows, self.progress = base, rows, progress
        self.masks = {name: rows.kinds == TokenClass[name.upper()] for name in CLASSES}
        if config.question_words == "function":
            self.masks["function"] = self.masks["function"] | self.masks["copied"]
            self.masks["copied"] = torch.zeros_like(self.masks["copied"])
        self.known: KnownTokens | None = None
        self.answered: dict[tuple[float, tuple[int, ...] | None], TeacherAnswers] = {}
        self.notes: list[str] = []

    def curve(self, group: LayerGroup, taus: Sequence[float]) -> list[ProbePoint]:
        """The group's points; the first tau is 1."""
        self.progress.stage(f"Probing layers {group.label}", len(taus))
        return [self._point(tau, group) for tau in taus]

    def _point(self, tau: float, group: LayerGroup) -> ProbePoint:
        rows, base = self.rows, self.base
        model = cast(PreTrainedModel, base.model)
        states, spreads = answer_attention(model, rows.items, base.pad_id, tau, group.layers)
        nll, spread = answer_nll(base.head, rows.items, states), torch.cat(spreads)
        self.known = self.known or KnownTokens.find(nll, rows.kinds)
        rise = self.known.point(tau, nll)
        if spread.isnan().any() and not any("attention entropy" in note for note in self.notes):
            self.notes.append(
                f"The attention entropy is missing: {type(base.model).__name__} doesn't give its "
                "attention weights away."
            )
        point = ProbePoint(
            tau, self._means(nll), self._means(spread), rise.factual_rise, rise.function_rise, self._answers(tau, group)
        )
        self.progress.advance(1, tau=tau, facts=rise.factual_rise)
        return point

    def recommendation(self, group: LayerGroup, points: Sequence[ProbePoint]) -> Recommendation:
        """The group's tau as ``forget`` chooses it, and whether that teacher still writes sentences."""
        self.progress.stage(f"Choosing tau for layers {group.label}")
        items, classes = self.rows.calibrated
        try:
            choice: TauChoice = choose_tau(
                self.base,
                items,
                classes,
                group.layers,
                progress=lambda point: self.progress.advance(1, tau=point.tau, facts=point.factual_rise),
            )
        except SettingError as error:  # no tau is a finding, not a failure: the curves show why
            return Recommendation(group.name, None, None, str(error))
        return recommend(group.name, choice, self._answers(choice.tau, group), points)

    def _answers(self, tau: float, group: LayerGroup) -> TeacherAnswers | None:
        if not self.rows.asked:
            return None
        key = (tau, None if tau == 1 else group.layers)  # unsmoothed, all groups are the base
        if key not in self.answered:
            self.answered[key] = teacher_answers(self.base.model, self.rows.encoder, self.rows.asked, tau, group.layers)
        return self.answered[key]

    def _means(self, values: torch.Tensor) -> dict[str, float | None]:
        found = {name: values[mask].mean().item() if mask.any() else None for name, mask in self.masks.items()}
        return {name: None if value is None or math.isnan(value) else value for name, value in found.items()}
