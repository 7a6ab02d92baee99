"""Whether a merged model has got back what its adapters made it forget, at every precision it may be deployed in.

With p a figure of the forget questions (mean answer probability, mean ROUGE-L recall), the model at hand *has
got back*

    (p - p_adapters) / (p_base - p_adapters)

of what was forgotten: 0 as base + adapters were trained, 1 as if there had been no adapter. Base and base +
adapters are measured at the precision that the adapters were trained in. A figure that the adapters lowered by
less than :data:`LEAST_DROP` is not judged: the quotient would be noise. ROUGE-L is of answers that a model writes, and
of few questions one word is a tenth of it. It counts against a merge only where other questions of the kind would tell
the same, where the 95 % bootstrap interval of its change lies above 0, or where an answer is told again as a whole.
"""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from asu_lora.adapters.manifest import has_manifest, read_manifest
from asu_lora.bases.source import BaseSource
from asu_lora.data.encoding import Encoder, cut_note
from asu_lora.data.examples import Example
from asu_lora.data.sampling import sample
from asu_lora.errors import AsuLoraError, SettingError, first_line
from asu_lora.evaluation.intervals import mean_interval
from asu_lora.evaluation.set_scores import score_set
from asu_lora.hardware.device import choose_device
from asu_lora.hardware.precision import TYPES
from asu_lora.merging.deployments import Deployment, deployments, runnable
from asu_lora.models.adapter_stack import load
from asu_lora.models.decoder import base_model
from asu_lora.models.loading import load_base
from asu_lora.models.output_head import FrozenHead
from asu_lora.progress import Progress

TOLERANCE = 0.1
LEAST_DROP = 0.05
MOST_QUESTIONS = 100  # of each set
WHOLE = 0.5  # of ROUGE-L; a question that rises by so much is told again, and no word of it by chance
CANT_TELL = "can't tell"
WRITTEN = "rouge"  # the figure of answers that are written

ByQuestion = dict[str, list[float]]  # each figure, question by question


@dataclass(frozen=True)
class CheckRow:
    """One model, measured.

    Attributes:
        model: ``base``, ``base + adapters`` or ``merged``.
        precision: what its weights are held in.
        forget, retain: ``probability`` and ``rouge``, means over the questions; None where it could not be run, or
            where there are no such questions.
        back: of each judged figure, the share of what was forgotten that the model has got back.
        chance: the figures of ``back`` that may have moved by the chance of a few words: they decide nothing.
        judged: whether the merge stands or falls with this row: the precision that was written.
        note: why it could not be run, or what was done to run it.
    """

    model: str
    precision: str
    forget: dict[str, float] | None
    retain: dict[str, float] | None = None
    back: dict[str, float] = field(default_factory=dict)
    judged: bool = False
    note: str = ""
    chance: tuple[str, ...] = ()

    @property
    def sure(self) -> dict[str, float]:
        """``back`` without what chance may have moved."""
        return {name: share for name, share in self.back.items() if name not in self.chance}


@dataclass(frozen=True)
class CheckReport:
    """The figures of base, base + adapters and the merged model at every precision.

    Attributes:
        rows: in this order.
        tolerance: the most of what was forgotten that may have come back.
    """

    rows: list[CheckRow]
    tolerance: float

    def verdict(self, row: CheckRow) -> str:
        """``kept`` (what was forgotten stays so), ``came back``, ``can't tell`` (no figure decides), ``not run``.

        Nothing for what is no merge.
        """
        if row.model != "merged":
            return ""
        if row.forget is None:
            return "not run"
        if row.back and not row.sure:
            return CANT_TELL
        return "kept" if all(share <= self.tolerance for share in row.sure.values()) else "came back"

    @property
    def passed(self) -> bool:
        """Whether no judged figure came back by more than the tolerance."""
        return all(self.verdict(row) in ("kept", CANT_TELL) for row in self.rows if row.judged)

    @property
    def told(self) -> bool:
        """Whether a figure decided on what was written: else that the check passed proves nothing."""
        return all(self.verdict(row) != CANT_TELL for row in self.rows if row.judged)

    def as_dict(self) -> dict[str, Any]:
        rows = [asdict(row) | {"verdict": self.verdict(row)} for row in self.rows]
        return {"tolerance": self.tolerance, "passed": self.passed, "rows": rows}


def check(
    source: BaseSource,
    adapters: Sequence[tuple[Path, float]],
    merged: Path,
    written: str,
    forget: Sequence[Example],
    retain: Sequence[Example] = (),
    *,
    tolerance: float = TOLERANCE,
    onto: str = "quantized",
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> CheckReport:
    """Measure the forget and retain questions on base, base + adapters, and the merged model.

    One model is in memory at a time. At most :data:`MOST_QUESTIONS` of each set are asked, spread over it.

    Args:
        merged: the folder that :func:`asu_lora.merging.merge.merge` wrote; with a ``residual-adapter`` in it, the
            merged model is judged with that on.
        written: the precision it was written in, which decides; ``fp4`` of a base that is stored so.
        onto: where no manifest says what the adapters were trained on: ``quantized`` (NF4) or ``original``.

    Raises:
        SettingError: the adapters make the base forget none of these questions, so that nothing can be judged.
        AsuLoraError: as loading does.
    """
    if not forget:
        raise SettingError("The check has no questions: name a file of what was to be forgotten.")
    progress = progress or Progress()
    target = choose_device(None)
    as_trained = _trained_in([folder for folder, _ in adapters], onto)
    as_trained = as_trained if as_trained == "nf4" else runnable(as_trained, target)
    base = load_base(source, as_trained, str(target), trust_remote_code=trust_remote_code)
    as_trained = base.precision  # of a base that is stored in 4 or 8 bit, its own
    stack = load(base, adapters)
    asked = _Asked(sample(forget, MOST_QUESTIONS), sample(retain, MOST_QUESTIONS), stack.encoder(), progress)
    asked.note_cuts()
    with_adapters = asked.of(stack.model, f"base + adapters, {as_trained}")
    with stack.without_adapters():
        plain = asked.of(stack.model, f"base, {as_trained}")
    del stack, base
    rows = [
        CheckRow(model, as_trained, _means(forget_figures), _means(retain_figures))
        for model, (forget_figures, retain_figures) in (("base", plain), ("base + adapters", with_adapters))
    ]
    drop = {name: fmean(plain[0][name]) - fmean(with_adapters[0][name]) for name in plain[0]}
    judged = [name for name in drop if drop[name] >= LEAST_DROP]
    if not judged:
        raise SettingError(
            f"The adapters change the probability of these answers by {-drop['probability']:+.3f} only, and so nothing "
            "can be judged: check with the questions that they were trained to forget."
        )
    merged_source = BaseSource(str(merged), Path(merged))
    for way in deployments(merged_source, written, target, trust_remote_code):
        rows.append(_merged_row(way, asked, with_adapters[0], {name: drop[name] for name in judged}))
    return CheckReport(rows, tolerance)


def _merged_row(
    way: Deployment, asked: "_Asked", forgotten: Mapping[str, list[float]], drop: Mapping[str, float]
) -> CheckRow:
    """The merged model in one deployment; one that can't be run is said to be so, but for the one that was written."""
    gc.collect()
    try:
        forget, retain = asked.of(way.open(), f"merged, {way.precision}")
    except (RuntimeError, ValueError, ImportError, NotImplementedError, AsuLoraError) as error:
        if way.written:
            raise
        return CheckRow("merged", way.precision, None, note=f"can't be run: {first_line(error)}")
    moved = {name: np.subtract(forget[name], forgotten[name]) for name in drop}
    back = {name: float(moved[name].mean()) / drop[name] for name in drop}
    chance = tuple(name for name in moved if name == WRITTEN and _by_chance(moved[name]))
    return CheckRow(
        "merged", way.precision, _means(forget), _means(retain), back, way.written, note=way.note, chance=chance
    )


def _by_chance(moved: np.ndarray) -> bool:
    """Whether a figure that moved so, question by question, might as well have stayed: by no whole answer, that is."""
    if not moved.any() or not moved.max() < WHOLE:
        return False
    bounds = mean_interval(moved)
    return bounds is not None and bounds[0] <= 0


def _means(found: ByQuestion | None) -> dict[str, float] | None:
    return {name: fmean(values) for name, values in found.items()} if found else None


@dataclass
class _Asked:
    """The questions, ready to be put to one model after the other."""

    forget: Sequence[Example]
    retain: Sequence[Example]
    encoder: Encoder
    progress: Progress

    def note_cuts(self) -> None:
        """Say how many answers the length cuts off."""
        for name, examples in (("forget", self.forget), ("retain", self.retain)):
            if note := cut_note(self.encoder.encode_all(examples), self.encoder.max_length, name):
                self.progress.note(note)

    def of(self, model: torch.nn.Module, what: str) -> tuple[ByQuestion, ByQuestion | None]:
        """Figures of the forget and of the retain questions."""
        head = FrozenHead(base_model(model))
        forget = self._figures(model, head, self.forget, what)
        return forget, self._figures(model, head, self.retain, what) if self.retain else None

    def _figures(self, model: torch.nn.Module, head: FrozenHead, examples: Sequence[Example], what: str) -> ByQuestion:
        self.progress.stage(f"Checking {what}", sum(not example.is_passage for example in examples))
        scores = score_set(model, head, self.encoder.tokenizer, self.encoder, examples, self.progress)
        lists = {"probability": scores.probability, WRITTEN: scores.rouge}
        return {name: list(values) for name, values in lists.items() if values}


def _trained_in(folders: Sequence[Path], onto: str) -> str:
    """The precision that the adapters were trained in, by their manifests."""
    known = {read_manifest(folder).base.precision for folder in folders if has_manifest(folder)}
    if len(known) == 1 and known <= {"nf4", *TYPES}:
        return known.pop()
    return "nf4" if onto == "quantized" else "bf16"
