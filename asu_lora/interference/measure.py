"""Measures a set of adapters on rows: base, each alone, every two, and all of them.

Retain KL is KL(base || base + adapters) in nats, the mean over the answer tokens of rows that are to stay as they are.
Adapters that keep out of each other's way add their KLs up; what two have beyond that is what their meeting costs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from asu_lora.adapters.adapter_spec import weighted
from asu_lora.adapters.fitted_weights import fitting
from asu_lora.adapters.forgetting_curve import held_weight
from asu_lora.adapters.overlap import SetOverlap, overlap
from asu_lora.adapters.store import AdapterStore
from asu_lora.data.encoding import Encoded, Encoder, encoder_for
from asu_lora.data.examples import Example
from asu_lora.data.sampling import sample
from asu_lora.errors import DataError
from asu_lora.evaluation.set_scores import example_probabilities
from asu_lora.models.adapter_stack import adapter_folders, load
from asu_lora.models.decoder import base_model
from asu_lora.models.hidden_states import answer_logprobs, hidden_states
from asu_lora.models.loading import LoadedBase
from asu_lora.models.output_head import FrozenHead
from asu_lora.models.stack_rows import rows_of_adapters
from asu_lora.progress import Progress

KEPT = 0.95  # of the worst single adapter's retain probability that the sum must keep
FORGOTTEN = 0.75  # of its probability before, at most, has a set that is some adapter's own
MOST_PAIRS = 28  # measured; of more adapters than 8 those that the weights speak against first
WEIGHTS = (0.8, 0.6, 0.4)  # tried for all adapters where their sum keeps too little

Adapters = Sequence[tuple[str | Path, float]]


@dataclass(frozen=True)
class State:
    """What base + some adapters does.

    Attributes:
        adapters: names and weights that are active, none for the base.
        retain_kl: nats a token, 0 for the base.
        retain_probability: exp(-mean NLL) of the retain answers, mean over rows, in [0, 1].
        forget: the same of each forget set's answers, by name.
    """

    adapters: tuple[tuple[str, float], ...]
    retain_kl: float
    retain_probability: float
    forget: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Interference:
    """A set of adapters, by its weights and as measured.

    Attributes:
        overlap: what the weights say.
        base, singles, pairs, total: the states measured; ``pairs`` in the order of ``excess``.
        scaled: all adapters at a common lower weight that keeps enough, None where none was needed or none does.
        fitted: weights at which each forgets in the sum what it forgets alone; None where manifests have no curves.
        held: by the name of an adapter, the weights of the requests in it added up; 1 where it isn't told.
    """

    overlap: SetOverlap
    base: State
    singles: list[State]
    pairs: list[State]
    total: State
    scaled: State | None = None
    fitted: list[float] | None = None
    held: Mapping[str, float] = field(default_factory=dict)

    @property
    def pressure(self) -> float | None:
        """Nats that an adapter of one request at weight 1 takes from another one's forgotten answers, the mean over the
        forget sets that an adapter takes a quarter of at least; None without such a set or without other adapters."""
        found = []
        for name, before in self.base.forget.items():
            own = min(self.singles, key=lambda state: state.forget[name])
            beside = [adapter for state in self.singles if state is not own for adapter in state.adapters]
            others = sum(weight * self.held.get(adapter, 1.0) for adapter, weight in beside)
            alone, together = own.forget[name], self.total.forget[name]
            if others > 0 and together > 0 and 0 < alone <= FORGOTTEN * before:
                found.append(math.log(alone / together) / others)
        return max(sum(found) / len(found), 0.0) if found else None

    @property
    def adds_up(self) -> bool:
        """Whether the sum keeps 95 % of the retain probability that the worst of its adapters keeps."""
        return self.total.retain_probability >= KEPT * min(s.retain_probability for s in self.singles)

    def excess(self, pair: State) -> float:
        """Retain KL of a pair beyond the sum of its adapters' own, nats a token: what their meeting costs."""
        alone = {state.adapters[0]: state.retain_kl for state in self.singles}
        return pair.retain_kl - sum(alone[adapter] for adapter in pair.adapters)

    def advice(self) -> str:
        """Which pair is to blame, and what to do: one sentence."""
        kept = f"{self.total.retain_probability:.3f} of the base's {self.base.retain_probability:.3f}"
        if self.adds_up:
            return f"These adapters add up: together they keep a retain probability of {kept}."
        blamed = ""
        if self.pairs:
            (first, _), (second, _) = self.pairs[0].adapters
            excess = self.excess(self.pairs[0])
            blamed = f", '{first}' with '{second}' most of all (retain KL {excess:+.3f} beyond their own)"
        if self.scaled:
            both = zip(self.scaled.adapters, self.total.adapters, strict=True)
            weight = next(lower / full for (_, lower), (_, full) in both if full)  # of all zero nothing is scaled
            way = (
                f"train one on top of the other (forget --on-top-of), or serve all at {weight:g} of their weights, "
                f"which keeps {self.scaled.retain_probability:.3f} and forgets less"
            )
        else:
            way = "train one on top of the other (forget --on-top-of), or train one adapter for these requests together"
        return f"These adapters do not add up: together they keep a retain probability of {kept}{blamed}; {way}."

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON; it holds no text of any row."""
        return {
            "weights": self.overlap.as_dict(),
            "base": asdict(self.base),
            "singles": [asdict(state) for state in self.singles],
            "pairs": [asdict(state) | {"excess": self.excess(state)} for state in self.pairs],
            "sum": asdict(self.total),
            "scaled": asdict(self.scaled) if self.scaled else None,
            "pressure": self.pressure,
            "fitted": self.fitted,
            "adds_up": self.adds_up,
            "advice": self.advice(),
        }


def measure(
    base: LoadedBase,
    adapters: Adapters,
    store: AdapterStore,
    retain: Sequence[Example],
    forget: Mapping[str, Sequence[Example]] | None = None,
    *,
    most: int = 40,
    progress: Progress | None = None,
) -> Interference:
    """Measure what adapters do alone, by twos and together.

    Args:
        base: the loaded base; a plain base again afterwards.
        adapters: names or folders, with weights.
        retain: what must stay as it is.
        forget: sets that were to be forgotten, by name.
        most: the most rows of each set, spread evenly.

    Raises:
        DataError: no retain row.
        AdapterError, StoreError: an adapter that is unknown, broken, or of another base.
    """
    if not retain:
        raise DataError("There is no row to keep: give --retain a file with rows.")
    progress = progress or Progress()
    folders = adapter_folders(adapters, store)
    found = overlap([folder for folder, _ in folders], [weight for _, weight in folders])
    at = {(pair.first, pair.second): pair.alignment for pair in found.pairs}
    chosen = list(combinations(range(len(folders)), 2)) if len(folders) > 2 else []
    chosen.sort(key=lambda ij: -at.get((found.names[ij[0]], found.names[ij[1]]), 0.0))
    chosen = chosen[:MOST_PAIRS]
    written, notes = rows_of_adapters([folder for folder, _ in folders], base.tokenizer)
    encoder = encoder_for(base.tokenizer, base.model.config, written)
    for note in (*notes, *encoder.notes()):
        progress.note(note)
    rows = _Rows(
        base, encoder, sample(retain, most), {name: sample(part, most) for name, part in (forget or {}).items()}
    )
    progress.stage("Base, each adapter, pairs and all of them", 2 + len(folders) + len(chosen))

    def state(*indices: int, share: float = 1.0) -> State:
        active = [(found.names[i], folders[i][0], share * folders[i][1]) for i in indices]
        measured = rows.state(active, store)
        progress.advance(1, kept=measured.retain_probability)
        return measured

    plain, singles, pairs = state(), [state(i) for i in range(len(folders))], [state(*ij) for ij in chosen]
    total = state(*range(len(folders))) if len(folders) > 1 else singles[0]
    if len(folders) == 2:
        pairs = [total]
    held = {name: held_weight(folder) for name, (folder, _) in zip(found.names, folders, strict=True)}
    result = Interference(found, plain, singles, pairs, total, held=held)
    pairs.sort(key=result.excess, reverse=True)
    if not result.adds_up:
        least = KEPT * min(single.retain_probability for single in singles)
        tried = (state(*range(len(folders)), share=share) for share in WEIGHTS)
        result = replace(result, scaled=next((each for each in tried if each.retain_probability >= least), None))
    progress.close()
    return replace(result, fitted=fitting(folders, result.pressure))


class _Rows:
    """The rows of a measurement, and the base's states on the retain rows."""

    def __init__(
        self, base: LoadedBase, encoder: Encoder, retain: Sequence[Example], forget: Mapping[str, Sequence[Example]]
    ):
        self.base = base
        self.retain = encoder.encode_all(retain, "retain row")
        self.forget = {name: encoder.encode_all(examples, "forget row") for name, examples in forget.items()}
        self.plain = self._states(base.model, self.retain)

    def state(self, active: Sequence[tuple[str, Path, float]], store: AdapterStore) -> State:
        """Measure the base with some adapters on it, and take them off again."""
        stack = load(self.base, [(folder, weight) for _, folder, weight in active], store)
        try:
            model = base_model(stack.model)
            head = self._head(model)
            states = self._states(model, self.retain)
            kl = torch.cat([self._kl(head, mine, base) for mine, base in zip(states, self.plain, strict=True)])
            return State(
                tuple((name, weight) for name, _, weight in active),
                max(kl.mean().item(), 0.0) if active else 0.0,
                _probability(head, self.retain, states),
                {name: _probability(head, items, self._states(model, items)) for name, items in self.forget.items()},
            )
        finally:
            stack.unload()

    def _states(self, model: torch.nn.Module, items: Sequence[Encoded]) -> list[torch.Tensor]:
        return hidden_states(model, items, self.base.pad_id)

    def _head(self, model: torch.nn.Module) -> FrozenHead:
        """The output head as the adapters that are on leave it: an adapter from elsewhere may change that too."""
        plain = base_model(model).get_output_embeddings() is self.base.head.module
        return self.base.head if plain else FrozenHead(model)

    def _kl(self, head: FrozenHead, states: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
        """(T,) KL(base || adapters) of a row's answer tokens, nats."""

        def divergence(logits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
            target = self.base.head.logits(reference).log_softmax(1)
            return (target.exp() * (target - logits.log_softmax(1))).sum(1)

        return head.per_token(divergence, states, base)


def _probability(head: FrozenHead, items: Sequence[Encoded], states: Sequence[torch.Tensor]) -> float:
    values = example_probabilities(items, answer_logprobs(head, items, states))
    return sum(values) / len(values)


def spelled(state: State) -> str:
    """The adapters of a state, as they are typed: ``anna + ben:0.5``; ``base`` for none."""
    return " + ".join(weighted(name, weight) for name, weight in state.adapters) or "base"
