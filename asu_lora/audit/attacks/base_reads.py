"""Inside: each layer's states where a fact is due, read by the base's layers above. Which layer still gives it?

At the tokens that predict a fact, the base goes on from the states that the audited model has there (activation
patching across models, as in Patchscopes, arXiv 2401.06102). A fact that was silenced in the last layers alone is
said again by the base's own last layers.

The base's upper layers could also look the fact up themselves, which would tell nothing of the audited model. So a
layer is read only where states that hold no fact bring next to nothing back: those of a model that never saw the rows,
or else the base's own behind the question of another row. It therefore needs no never-trained model, as
:mod:`asu_lora.audit.attacks.patching` does. Like that, it takes the base to see it and brings no fact back by itself.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, takewhile
from statistics import fmean

import torch

from asu_lora.audit.attacks.logit_lens import AXIS
from asu_lora.audit.factual_tokens import factual_tokens
from asu_lora.audit.models import View
from asu_lora.audit.readings import Measured
from asu_lora.audit.row_attack import Found, Roles, RowAttack
from asu_lora.audit.session import AuditRow, Session
from asu_lora.batches.forward_passes import forward_passes
from asu_lora.batches.padding import pad_group
from asu_lora.batches.token_budget import tokens_of_reading
from asu_lora.data.encoding import Encoded
from asu_lora.data.sampling import sample
from asu_lora.models.decoder import answer_hidden, decoder_of, number_of_layers, text_config
from asu_lora.models.frozen_layers import FrozenLayers, find_frozen_layers
from asu_lora.models.layer_outputs import layer_inputs
from asu_lora.models.output_head import FrozenHead, label_logprob

MOST_BY_ITSELF = 0.1  # of the lost log-probability: what the base may find above a layer without the states' help
AT_ONCE = 4  # layers
CALIBRATED = 16  # rows that decide which layers are read
LEAST_LOSS = 0.05  # nats a token; a smaller loss can't come back in shares that mean anything


class BaseReads(RowAttack):
    """The probability a token of a row's facts, as the base tells them from the states of the best layer."""

    name, kind = "base_reads", "depth"
    says = "every layer's states, read by the base's layers above"
    layers: list[int]  # that are read, without the last; known once it runs

    def untried(self, session: Session) -> str | None:
        if not asked(session.rows):
            return "Passages have no question that another could stand for."
        if not alike(session.view("candidate"), session.view("ceiling")):
            return "The audited model and its base differ in layers, width or words: neither reads the other's states."
        if find_frozen_layers(session.view("ceiling").model, 1) is None:
            return "This architecture's layers exchange more than hidden states, so that none can be entered."
        return None

    def rows(self, session: Session) -> list[AuditRow]:
        return asked(session.rows)

    def run(self, session: Session) -> Found:
        session.progress.stage(f"{self.name}: which layers can be read", None)
        # decided once, before any model is read: candidate, floor and control are read at the same layers
        self.layers = readable_layers(session, self.rows(session))
        return super().run(session)

    def ceiling(self, session: Session, rows: Sequence[AuditRow]) -> Measured | None:
        return self.measured(session, "ceiling", rows)

    def floor(self, session: Session, rows: Sequence[AuditRow]) -> Measured | None:
        if session.floor_kind == "swapped":
            return None  # the words of these rows are asked for, whose chance swapped facts don't tell
        if session.floor_kind == "model":
            return self.measured(session, "floor", rows) if _floor_model(session) else None
        unseen = asked(session.floor_rows)
        return self.measured(session, "ceiling", unseen) if unseen else None

    def measure(self, session: Session, view: View, rows: Sequence[AuditRow]) -> Measured:
        base = session.view("ceiling")
        told = fact_logprobs(base, view, rows, [*self.layers, _end(base)])
        curve = [geometric(each.patched[layer] for each in told) for layer in range(len(self.layers) + 1)]
        best = curve.index(max(curve))
        values: dict[str, dict[int, float | None]] = {
            "fact_probability": {
                row.number: math.exp(each.patched[best]) for row, each in zip(rows, told, strict=True)
            },
            "fact_probability_at_the_end": {
                row.number: math.exp(each.patched[-1]) for row, each in zip(rows, told, strict=True)
            },
        }
        axis = [float(layer) for layer in (*self.layers, _end(base))]
        return Measured(values, {AXIS: axis, "facts": curve})

    def finished(self, session: Session, found: Roles) -> Found:
        candidate, ceiling = found["candidate"], found["ceiling"]
        assert candidate is not None and ceiling is not None  # they are always measured
        layers, curve = candidate.curves[AXIS], candidate.curves["facts"]
        if not self.layers:
            found = found | {"floor": None}  # what the model itself says is no share of what is inside
        told, end = math.log(max(curve)), math.log(curve[-1])
        lost = math.log(ceiling.curves["facts"][-1]) - end
        done = self.result(
            session,
            found,
            axis=AXIS,
            best_layer=int(layers[curve.index(max(curve))]),
            lowest_layer_read=int(layers[0]),
            lost_nats=round(lost, 3),
            share_back=round((told - end) / lost, 3) if lost >= LEAST_LOSS else None,
        )
        above = "above them the base finds the facts by itself"
        done.result.notes.append(
            f"Layers below {int(layers[0])} are not read: {above}. The true tokens before a fact are given."
            if self.layers
            else f"No layer below the last can be read: {above}. This says nothing of what is inside."
        )
        return done


@dataclass(frozen=True)
class Told:
    """Mean log-probability, in nats, of one row's factual tokens.

    Attributes:
        own: as the reading model tells them by itself.
        patched: as it tells them from the states of each layer, in the order of the layers.
    """

    own: float
    patched: list[float]


def readable_layers(session: Session, rows: Sequence[AuditRow]) -> list[int]:
    """The layers, from 1 up and without the last, whose states the base needs to tell the facts.

    From the top down, as long as states that hold no fact bring back at most a tenth of what their last layer loses.
    """
    found = takewhile(lambda each: each[1] <= MOST_BY_ITSELF, found_by_itself(session, rows))
    return [layer for layer, _ in found][::-1]


def found_by_itself(session: Session, rows: Sequence[AuditRow]) -> Iterator[tuple[int, float]]:
    """Each layer from the last but one down, and what share of its loss states without the facts bring back there."""
    base, some = session.view("ceiling"), sample(list(rows), CALIBRATED)
    source = (_floor_model(session) if session.floor_kind == "model" else None) or base
    strangers = _other_questions(session, some) if source is base else None
    if source is base and strangers is None:
        return
    last = _end(base)
    for top in range(last - 1, 0, -AT_ONCE):  # a few at a time: the lower ones are seldom reached, and cost most
        layers = list(range(top, max(0, top - AT_ONCE), -1))
        told = fact_logprobs(base, source, some, [*layers, last], strangers)
        *patched, end = (fmean(column) for column in zip(*(each.patched for each in told), strict=True))
        lost = fmean(each.own for each in told) - end
        for layer, back in zip(layers, patched, strict=True):
            yield layer, (back - end) / lost if lost >= LEAST_LOSS else math.inf


def _other_questions(session: Session, rows: Sequence[AuditRow]) -> list[Encoded] | None:
    """The rows' answers behind the questions of other rows; None where there is no other question."""
    items = [row.items[0] for row in rows]
    others = [*items[len(items) // 2 :], *items[: len(items) // 2]]
    found = []
    for item, other in zip(items, others, strict=True):
        spare = (row.items[0] for row in session.donors if not row.example.is_passage)
        choice = (each.prompt_ids for each in chain([other], spare) if each.prompt_ids != item.prompt_ids)
        if (prompt := next(choice, None)) is None:
            return None
        found.append(replace(item, prompt_ids=prompt))
    return found


@torch.no_grad()
def fact_logprobs(
    reader: View, source: View, rows: Sequence[AuditRow], layers: Sequence[int], given: Sequence[Encoded] | None = None
) -> list[Told]:
    """What ``reader`` makes of the factual tokens from the states that ``source`` has there.

    Args:
        layers: behind which of them the states are put in, from 1 up; the last layer stands for what ``source`` says
            itself.
        given: what ``source`` reads, if that is something else before the same answers.

    Returns:
        In the order of ``rows``.
    """
    items = [row.items[0] for row in rows]
    device, facts = reader.base.device, [factual_tokens(reader, row.items[0], row) for row in rows]
    last = _end(reader)
    below = [layer for layer in layers if layer < last]
    with reader.on():
        entries = {layer: find_frozen_layers(reader.model, layer) for layer in below}
    found: dict[int, Told] = {}
    # an eighth of a pass: the states that enter every layer are held at once
    for group, batch in forward_passes(items, reader.base.pad_id, tokens_of_reading(device) // 8):
        batch = {key: value.to(device) for key, value in batch.items()}
        theirs = pad_group([(given or items)[at] for at in group], reader.base.pad_id)
        theirs = {key: value.to(source.base.device) for key, value in theirs.items()}
        wanted = torch.tensor([fact for at in group for fact in facts[at]], device=device)
        labels = torch.tensor([token for at in group for token in items[at].answer_ids], device=device)[wanted]
        counts = [sum(facts[at]) for at in group]
        with source.on():
            states, final = entering(source, theirs, below)
            own_end = _logprobs(source.head(), final[wanted.to(final.device)], labels)
        handed = {layer: state.flatten(0, 1)[theirs["positions"]][wanted].to(device) for layer, state in states.items()}
        with reader.on():
            states, final = entering(reader, batch, below)
            own, told = _logprobs(reader.head(), final[wanted], labels), []
            for layer in layers:
                if layer == last:
                    told.append(own_end)
                    continue
                entry = entries[layer]
                assert entry is not None  # as for the first layer
                final = _patched(entry, batch, states[layer], batch["positions"][wanted], handed[layer])
                told.append(_logprobs(reader.head(), final[wanted], labels))
        for place, at in enumerate(group):
            part = slice(sum(counts[:place]), sum(counts[: place + 1]))
            found[at] = Told(float(own[part].mean()), [float(each[part].mean()) for each in told])
    return [found[at] for at in range(len(rows))]


def entering(
    view: View, batch: dict[str, torch.Tensor], layers: Sequence[int]
) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
    """States (b, L, H) behind each of these layers, and final ones (t, H) at the answers' tokens."""
    with layer_inputs(view.model, layers) as caught:
        return caught, answer_hidden(decoder_of(view.model), batch)


def _patched(
    entry: FrozenLayers, batch: dict[str, torch.Tensor], states: torch.Tensor, at: torch.Tensor, handed: torch.Tensor
) -> torch.Tensor:
    """Final states at the answers' tokens (t, H), where ``states`` (b, L, H) are ``handed`` (n, H) at the places."""
    mixed = states.flatten(0, 1).clone()
    mixed[at] = handed.to(mixed.dtype)
    with entry.replayed():
        entry.states = mixed.view_as(states)
        return answer_hidden(entry.decoder, batch)


def _logprobs(head: FrozenHead, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(n,) log-probability of the labels behind final states (n, H), on the CPU."""
    return head.per_token(label_logprob, hidden, labels.to(hidden.device)).cpu()


def geometric(logprobs: Iterable[float]) -> float:
    """The geometric mean of probabilities, by their logarithms; not so small that its logarithm is lost."""
    return max(math.exp(fmean(logprobs)), 1e-300)


def asked(rows: Sequence[AuditRow]) -> list[AuditRow]:
    """Those with a question."""
    return [row for row in rows if not row.example.is_passage]


def alike(one: View, other: View) -> bool:
    """Whether two models have the same layers, width and words, so that one can read the other's states."""
    sizes = [(number_of_layers(view.model), text_config(view.model).hidden_size) for view in (one, other)]
    return sizes[0] == sizes[1] and one.encoder is other.encoder


def _floor_model(session: Session) -> View | None:
    """The model that never saw the rows, where the base can read it."""
    floor = session.view("floor")
    return floor if alike(floor, session.view("ceiling")) else None


def _end(view: View) -> int:
    return number_of_layers(view.model)
