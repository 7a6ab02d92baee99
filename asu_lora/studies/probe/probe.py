"""The probe: what each class of answer tokens loses as attention is heated, by forward passes alone.

forget set -> classes of its answer tokens -> for every layer group and tau: NLL, attention entropy, own answers ->
recommended tau, by the code of ``asu-lora forget --tau auto``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from asu_lora.data.encoding import Encoded, Encoder
from asu_lora.data.examples import Example
from asu_lora.data.sampling import sample
from asu_lora.data.token_classes import TokenClass, token_classes
from asu_lora.errors import DataError, SettingError
from asu_lora.models.decoder import number_of_layers
from asu_lora.models.loading import LoadedBase
from asu_lora.models.output_head import FrozenHead
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
from asu_lora.studies.probe.teacher_answers import TeacherAnswers, own_answers
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


def probe(
    examples: Sequence[Example],
    base: LoadedBase,
    taus: Sequence[float] | None = None,
    layers: Sequence[str] = DEFAULT_GROUPS,
    question_words: str = "apart",
    rows: int = calibration.MOST_ROWS,
    answers: int = MOST_ANSWERS,
    progress: Progress | None = None,
) -> Probe:
    """Probe a frozen base on a forget set.

    Args:
        examples: the forget set. A row's field ``spans`` names its facts itself.
        taus: temperatures of at least 1; 1, the base, is always among them.
        layers: groups of layers (see :func:`~asu_lora.studies.probe.grid.layer_groups`).
        question_words: ``"apart"``: a class of their own; ``"function"``: among the function words. The
            recommended tau leaves them out of account either way, as ``tau auto`` does.
        rows: the most rows of the forget set to look at, spread evenly.
        answers: the most questions that the smoothed model answers itself, 0 for none.

    Raises:
        DataError: nothing to probe, or spans that can't be read.
        SettingError: a group of layers that the base doesn't have.
        SmoothingError: a base, or a layer, that can't be smoothed.
    """
    progress = progress or Progress()
    if not examples:
        raise DataError("There is nothing to probe: the forget set is empty.")
    taus = parse_taus(DEFAULT_TAUS) if taus is None else sorted({1.0, *taus})
    count = number_of_layers(base.model)
    groups = layer_groups(layers, count)
    head, encoder = FrozenHead(base.model), Encoder(base.tokenizer)
    everything = encoder.encode_all(examples, "forget row")
    classes = [token_classes(item, examples[item.example], base.tokenizer) for item in everything]
    at = sample(range(len(everything)), rows)
    items = [everything[i] for i in at]
    kinds = torch.tensor([kind for i in at for kind in classes[i]])
    asked = sample(
        [examples[i] for i in sorted({item.example for item in items}) if not examples[i].is_passage], answers
    )

    run = _Run(base, head, encoder, items, kinds, asked, question_words, progress)
    curves = [(group, run.curve(group, taus)) for group in groups]
    # the rows that 'forget' looks at, unless fewer were asked for
    chosen_from = range(len(everything)) if rows >= calibration.MOST_ROWS else at
    recommended = run.recommendation(
        *next(c for c in curves if c[0] == default_group(groups, count)),
        [everything[i] for i in chosen_from],
        [classes[i] for i in chosen_from],
    )
    progress.close()
    return Probe(
        base.source.name,
        base.precision,
        len({item.example for item in items}),
        len(asked),
        question_words,
        {name: int(mask.sum()) for name, mask in run.masks.items()},
        curves,
        recommended,
        run.notes,
    )


class _Run:
    """What the measurements of one probe share."""

    def __init__(
        self,
        base: LoadedBase,
        head: FrozenHead,
        encoder: Encoder,
        items: Sequence[Encoded],
        kinds: torch.Tensor,
        asked: Sequence[Example],
        question_words: str,
        progress: Progress,
    ):
        self.base, self.head, self.encoder, self.items, self.kinds = base, head, encoder, items, kinds
        self.asked, self.progress = asked, progress
        self.masks = {name: kinds == TokenClass[name.upper()] for name in CLASSES}
        if question_words == "function":
            self.masks["function"] = self.masks["function"] | self.masks["copied"]
            self.masks["copied"] = torch.zeros_like(self.masks["copied"])
        self.known: KnownTokens | None = None
        self.spoken: dict[tuple, TeacherAnswers] = {}
        self.notes: list[str] = []

    def curve(self, group: LayerGroup, taus: Sequence[float]) -> list[ProbePoint]:
        """The group's points; the first tau is 1."""
        self.progress.stage(f"Probing layers {group.label}", len(taus))
        points = []
        for tau in taus:
            states, spread = answer_attention(
                self.base.model, self.items, self.base.tokenizer.pad_token_id, tau, group.layers
            )
            nll, spread = answer_nll(self.head, self.items, states), torch.cat(spread)
            self.known = self.known or KnownTokens.find(nll, self.kinds)
            rise = self.known.point(tau, nll)
            points.append(
                ProbePoint(
                    tau,
                    self._means(nll),
                    self._means(spread),
                    rise.factual_rise,
                    rise.function_rise,
                    self._speak(tau, group),
                )
            )
            self.progress.advance(1, tau=tau, facts=rise.factual_rise)
        if spread.isnan().any() and not self.notes:
            self.notes.append(
                f"The attention entropy is missing: {type(self.base.model).__name__} doesn't give its "
                "attention weights away."
            )
        return points

    def recommendation(
        self,
        group: LayerGroup,
        points: Sequence[ProbePoint],
        items: Sequence[Encoded],
        classes: Sequence[Sequence[TokenClass]],
    ) -> Recommendation:
        """The group's tau as ``forget`` chooses it, and whether that teacher still writes sentences."""
        self.progress.stage(f"Choosing tau for layers {group.label}")
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
        return recommend(group.name, choice, self._speak(choice.tau, group), points)

    def _speak(self, tau: float, group: LayerGroup) -> TeacherAnswers | None:
        if not self.asked:
            return None
        key = (tau, None if tau == 1 else group.layers)  # unsmoothed, all groups are the base
        if key not in self.spoken:
            self.spoken[key] = own_answers(self.base.model, self.encoder, self.asked, tau, group.layers)
        return self.spoken[key]

    def _means(self, values: torch.Tensor) -> dict[str, float | None]:
        found = {name: values[mask].mean().item() if mask.any() else None for name, mask in self.masks.items()}
        return {name: None if value is None or math.isnan(value) else value for name, value in found.items()}
