"""Inside: the output head on every layer's states (the logit lens). At which layer is a fact still the first choice?

A model whose last layers alone were changed still knows below them: the fact stands there to be read, by anyone who
has the weights.
"""

from collections.abc import Sequence
from statistics import fmean

import torch

from asu_lora.audit.factual_tokens import factual_tokens
from asu_lora.audit.models import View
from asu_lora.audit.readings import Measured
from asu_lora.audit.row_attack import Found, Roles, RowAttack
from asu_lora.audit.session import AuditRow, Session
from asu_lora.batches.forward_passes import forward_passes
from asu_lora.batches.token_budget import tokens_of_reading
from asu_lora.models.decoder import answer_hidden, decoder_and_layers, decoder_of, number_of_layers
from asu_lora.models.layer_outputs import layer_outputs
from asu_lora.models.output_head import FrozenHead

NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "final_norm", "norm_f")
AXIS = "layer"


class LogitLens(RowAttack):
    """The share of a row's factual tokens that are the first choice at the best layer, after the true ones before."""

    name, kind = "logit_lens", "inside"
    says = "the output head on every layer's states"

    def untried(self, session: Session) -> str | None:
        if final_norm(session.view("candidate").model) is None:
            return "The decoder's last norm wasn't found, without which a layer's states are no logits."
        return None

    def ceiling(self, session: Session, rows: Sequence[AuditRow]) -> Measured | None:
        return self.measured(session, "ceiling", rows)

    def floor(self, session: Session, rows: Sequence[AuditRow]) -> Measured | None:
        return None if session.floor_kind == "swapped" else super().floor(session, rows)

    def measure(self, session: Session, view: View, rows: Sequence[AuditRow]) -> Measured:
        first = first_choices(view, rows)
        layers = len(next(iter(first.values())))
        curve = [fmean(each[layer] for each in first.values()) for layer in range(layers)]
        best = curve.index(max(curve))
        values: dict[str, dict[int, float | None]] = {
            "fact_tokens_first": {row: each[best] for row, each in first.items()},
            "fact_tokens_first_at_the_end": {row: each[-1] for row, each in first.items()},
        }
        return Measured(values, {AXIS: [float(layer + 1) for layer in range(layers)], "facts": curve})

    def finished(self, session: Session, found: Roles) -> Found:
        candidate = found["candidate"]
        assert candidate is not None  # it was measured first
        curve = candidate.curves["facts"]
        done = self.result(session, found, axis=AXIS, best_layer=curve.index(max(curve)) + 1)
        done.result.notes.append("Each model at the layer where most is read; the true tokens before a fact are given.")
        return done


def final_norm(model: torch.nn.Module) -> torch.nn.Module | None:
    """The norm between the last layer and the output head."""
    decoder = decoder_and_layers(model)[0]
    return next((getattr(decoder, name) for name in NORMS if hasattr(decoder, name)), None)


@torch.no_grad()
def first_choices(view: View, rows: Sequence[AuditRow]) -> dict[int, list[float]]:
    """By row, the share of its factual tokens that each layer's states put first: one number a layer.

    A row whose facts are words that are no factual tokens of their own is measured at all of its answer's tokens.
    """
    norm, head, device = final_norm(view.model), view.head(), view.base.device
    assert norm is not None  # untried() has looked
    items = [view.encoder.encode(row.example, row.number)[0] for row in rows]
    layers, found = range(number_of_layers(view.model)), dict[int, list[float]]()
    for group, batch in forward_passes(items, view.base.pad_id, tokens_of_reading(device)):
        batch = {key: value.to(device) for key, value in batch.items()}
        with layer_outputs(view.model, layers) as states:
            answer_hidden(decoder_of(view.model), batch)
        facts = [factual_tokens(view, items[at], rows[at]) for at in group]
        labels = torch.tensor([token for at in group for token in items[at].answer_ids], device=device)
        wanted = torch.tensor([fact for each in facts for fact in each], device=device)
        right = []
        for layer in layers:
            hidden = norm(states[layer].flatten(0, 1)[batch["positions"]][wanted])
            right.append(_argmax(head, hidden) == labels[wanted])
        start = 0
        for at, each in zip(group, facts, strict=True):
            count = sum(each)
            found[rows[at].number] = [float(hits[start : start + count].float().mean()) for hits in right]
            start += count
    return {row.number: found[row.number] for row in rows}


def _argmax(head: FrozenHead, hidden: torch.Tensor) -> torch.Tensor:
    return torch.cat([head.logits(part).argmax(1) for part in hidden.split(head.chunk())])
