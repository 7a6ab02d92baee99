"""``tau auto``: how hot the teacher's attention must be for this base and this request.

tau is not a constant of nature: 2.3 is right for Llama-2-7B on TOFU, and on SmolLM2-135M it leaves a teacher
that only babbles. What is the same everywhere is what the teacher has to be: the facts gone, the function words
standing. So tau rises, with forward passes on the forget set alone, until the factual tokens that the base
knew have become as unlikely as FACTS_GONE asks, and no further than the function words allow.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from asu_lora.data.encoding import Encoded
from asu_lora.data.token_classes import TokenClass
from asu_lora.errors import SettingError
from asu_lora.models.frozen_layers import find_frozen_layers
from asu_lora.models.hidden_states import answer_logprobs
from asu_lora.models.loading import LoadedBase
from asu_lora.models.output_head import FrozenHead
from asu_lora.teacher.teacher_states import teacher_states

# nats by which the NLL of known factual tokens must have risen
FACTS_GONE = 1.8  # to a sixth of their probability: enough where facts are ruled out besides (asu_lora.teacher.fluency)
FACTS_GONE_ALONE = 3.25  # to a 26th: where the teacher's word is all there is
WORDS_STAND = 2.0  # nats by which the NLL of known function tokens may have risen
KNOWN = 0.5  # probability from which on a token counts as known to the base
FEWEST_KNOWN = 8  # with fewer known factual tokens all factual tokens are looked at
STEP = 1.2  # tau grows by this factor
HIGHEST = 16.0
MOST_ROWS = 40


@dataclass(frozen=True)
class TauPoint:
    """The teacher at one tau: mean rise of the NLL above the base's, nats a token."""

    tau: float
    factual_rise: float
    function_rise: float


@dataclass(frozen=True)
class KnownTokens:
    """The answer tokens that tau is judged by: those the base knows, by class.

    Attributes:
        base: (T,) NLL of every answer token of all rows in the base, nats.
        factual, function: (T,) which of them carry facts, which only words.
        known, of: how many tokens that carry facts the base knows, and how many there are.
    """

    base: torch.Tensor
    factual: torch.Tensor
    function: torch.Tensor
    known: int
    of: int

    @classmethod
    def find(cls, base: torch.Tensor, kinds: torch.Tensor) -> "KnownTokens":
        """Args: ``base`` as above; ``kinds``, (T,), the :class:`TokenClass` of every token."""
        known = base < -math.log(KNOWN)
        factual, function = kinds == TokenClass.FACTUAL, kinds == TokenClass.FUNCTION
        if not factual.any():
            factual = kinds != TokenClass.FUNCTION  # everything stands in the question: then that is what is known
        if not factual.any():
            factual = torch.ones_like(known)
        return cls(
            base,
            factual & known if (factual & known).sum() >= FEWEST_KNOWN else factual,
            function & known if (function & known).any() else torch.ones_like(known),
            int((factual & known).sum()),
            int(factual.sum()),
        )

    def point(self, tau: float, nll: torch.Tensor) -> TauPoint:
        """The point of the curve at which the tokens have these NLLs, (T,)."""
        rise = nll - self.base
        return TauPoint(round(tau, 4), rise[self.factual].mean().item(), rise[self.function].mean().item())


@dataclass(frozen=True)
class TauChoice:
    """The tau chosen, the curve it was chosen from, and why in one sentence."""

    tau: float
    curve: list[TauPoint]
    reason: str


def choose_tau(
    base: LoadedBase,
    items: Sequence[Encoded],
    classes: Sequence[Sequence[TokenClass]],
    layers: Sequence[int] | None = None,
    *,
    progress: Callable[[TauPoint], None] | None = None,
    facts_gone: float = FACTS_GONE,
) -> TauChoice:
    """Find the lowest tau at which the forget set's facts are gone.

    Args:
        base: with no adapter active.
        items, classes: the forget rows and the class of each of their answer tokens.
        layers: the layers that are smoothed.
        progress: called with each point of the curve.
        facts_gone: nats by which the NLL of known factual tokens must rise.

    Returns:
        The choice. Between the two points around the threshold tau is interpolated.

    Raises:
        SettingError: attention has no hold on these facts: even the hottest teacher still knows them; or the base
            itself doesn't.
    """
    at = range(0, len(items), max(1, math.ceil(len(items) / MOST_ROWS)))
    items, kinds = [items[i] for i in at], torch.tensor([kind for i in at for kind in classes[i]])
    entry = find_frozen_layers(base.model, min(layers, default=0) if layers is not None else 0)
    entries = entry.compute(items, base.pad_id) if entry is not None else None

    def nll(tau: float) -> torch.Tensor:
        states = teacher_states(base.model, items, base.pad_id, tau, layers, entry=entry, entries=entries)
        return answer_nll(base.head, items, states)

    tokens = KnownTokens.find(nll(1.0), kinds)

    curve = [TauPoint(1.0, 0.0, 0.0)]
    tau = 1.0
    while tau < HIGHEST:
        tau *= STEP
        curve.append(tokens.point(tau, nll(tau)))
        if progress:
            progress(curve[-1])
        if curve[-1].factual_rise >= facts_gone:
            return _between(curve, "factual_rise", facts_gone, "the first at which the facts are gone")
        if curve[-1].function_rise >= WORDS_STAND:
            return _between(curve, "function_rise", WORDS_STAND, "the last at which the function words stand")
    if 2 * tokens.known < min(tokens.of, FEWEST_KNOWN):
        raise SettingError(
            f"The base hardly knows what should be forgotten: of {tokens.of} factual tokens {tokens.known} are likely "
            "to it, and smoothing takes nothing from the others. See what 'asu-lora ask' says, or give --tau."
        )
    raise SettingError(
        f"Even at tau {HIGHEST:g} the smoothed base still knows what should be forgotten (the NLL of "
        f"its facts rises by {curve[-1].factual_rise:.2f} nats): smooth more layers, or give --tau."
    )


def answer_nll(head: FrozenHead, items: Sequence[Encoded], states: Sequence[torch.Tensor]) -> torch.Tensor:
    """(T,) NLL of every answer token of all rows, nats, on the CPU, from each row's final hidden states."""
    return -torch.cat(answer_logprobs(head, items, states)).cpu()


def _between(curve: list[TauPoint], figure: str, threshold: float, reason: str) -> TauChoice:
    """Interpolate the tau at which the curve crosses the threshold, on its last stretch."""
    low, high = curve[-2], curve[-1]
    share = (threshold - getattr(low, figure)) / (getattr(high, figure) - getattr(low, figure))
    tau = round(low.tau + share * (high.tau - low.tau), 3)
    facts = low.factual_rise + share * (high.factual_rise - low.factual_rise)
    words = low.function_rise + share * (high.function_rise - low.function_rise)
    return TauChoice(
        tau,
        curve,
        f"tau {tau:g} is {reason}: the NLL of known factual tokens has risen by "
        f"{facts:.2f} nats, that of function words by {words:.2f}.",
    )
