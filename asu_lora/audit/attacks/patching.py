"""Inside: each layer's states of a model put into the base. How deep are the facts gone?

The base goes on from the other model's states. Where it then finds the fact as it does from its own, that layer still
holds it; where it finds no more than from a model that never saw the rows, it is gone. Per row, with d(l) the fact's
log-probability that is lost by the states of layer l, nats a token,

    knowledge = 1 - sum_l d_never(l) min(max(d(l) / d_never(l), 0), 1) / sum_l d_never(l)

over the layers at which the never-trained model's states lose something: 1 is the base, 0 a model that never saw the
rows. So layers that hold nothing of the fact don't count, as in activation patching of unlearnt models. It takes the
base to see it, and who has that has the facts: it says how deep they are gone, and is no attack that brings them back.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean

import torch

from asu_lora.audit.factual_tokens import factual_tokens
from asu_lora.audit.models import View
from asu_lora.audit.readings import Measured
from asu_lora.audit.row_attack import Found, Roles, RowAttack
from asu_lora.audit.session import AuditRow, Session
from asu_lora.batches.forward_passes import forward_passes
from asu_lora.batches.token_budget import tokens_of_reading
from asu_lora.data.sampling import sample
from asu_lora.models.decoder import answer_hidden, decoder_and_layers, decoder_of, number_of_layers
from asu_lora.models.layer_outputs import Output, layer_outputs
from asu_lora.models.output_head import label_logprob

AXIS = "layer"
MOST_LAYERS = 12  # patched, spread evenly, the last one among them
LOST = 0.05  # nats a token that a never-trained model's states must lose for a layer to hold something

Lost = dict[int, list[float]]  # by row: nats a token, a number a layer


class Patching(RowAttack):
    """The share of what the base's layers hold of a fact that the audited model's layers still hold."""

    name, kind = "patching", "depth"
    says = "each layer's states put into the base, against those of a model that never saw the rows"
    never: Lost

    def untried(self, session: Session) -> str | None:
        if not session.models.has("floor"):
            return "It needs a model that never saw the rows, with the base's layers: --floor-base."
        views = [session.view(role) for role in ("candidate", "ceiling", "floor")]
        shapes = {
            (number_of_layers(view.model), view.base.model.config.get_text_config().hidden_size) for view in views
        }
        if len(shapes) > 1 or any(view.encoder is not session.encoder for view in views):
            return "The model that never saw the rows has other layers or another tokenizer than the base."
        return None

    def run(self, session: Session) -> Found:
        self.never = self.lost(session, "floor", session.rows)
        return super().run(session)

    def ceiling(self, session: Session, rows: Sequence[AuditRow]) -> Measured | None:
        return self.measured(session, "ceiling", rows)

    def floor(self, session: Session, rows: Sequence[AuditRow]) -> Measured | None:
        return self.held(session, rows, self.never)

    def measured(self, session: Session, role: str, rows: Sequence[AuditRow]) -> Measured:
        return self.held(session, rows, self.lost(session, role, rows))

    def measure(self, session: Session, view: View, rows: Sequence[AuditRow]) -> Measured:
        return self.measured(session, view.role, rows)

    def held(self, session: Session, rows: Sequence[AuditRow], lost: Lost) -> Measured:
        """What is still held, by row and by layer."""
        shares = {row.number: knowledge(lost[row.number], self.never[row.number]) for row in rows}
        layers = patched_layers(session.view("ceiling").model)
        return Measured(
            {"knowledge": shares},
            {
                AXIS: [float(layer + 1) for layer in layers],
                "nats lost": [fmean(each[at] for each in lost.values()) for at in range(len(layers))],
            },
        )

    def lost(self, session: Session, role: str, rows: Sequence[AuditRow]) -> Lost:
        session.progress.stage(f"{self.name}: {role}", None)
        return nats_lost(session.view(role), session.view("ceiling"), rows)

    def finished(self, session: Session, found: Roles) -> Found:
        done = self.result(session, found, axis=AXIS, layers=len(patched_layers(session.view("ceiling").model)))
        done.result.notes.append(
            "All states of a layer are put into the base. Layers below an adapter are the base's own: they hold all."
        )
        return done


def knowledge(lost: Sequence[float], never: Sequence[float]) -> float | None:
    """1 where nothing is lost at any layer, 0 where as much as by a model that never saw the row; None where that one
    loses nothing.

    Args:
        lost, never: nats a token, a number a layer.
    """
    held = [(mine, all_of_it) for mine, all_of_it in zip(lost, never, strict=True) if all_of_it > LOST]
    if not held:
        return None
    gone = sum(min(max(mine, 0.0), all_of_it) for mine, all_of_it in held)
    return 1 - gone / sum(all_of_it for _, all_of_it in held)


def patched_layers(model: torch.nn.Module) -> list[int]:
    """Which layers' states are put into the base."""
    count = number_of_layers(model)
    return sorted({*sample(range(count), MOST_LAYERS - 1), count - 1})


@torch.no_grad()
def nats_lost(source: View, base: View, rows: Sequence[AuditRow]) -> Lost:
    """How much less probable the rows' facts become for the base with each layer's states of another model.

    Args:
        source: whose states are taken.
        base: goes on from them, with its own layers above.
    """
    items = [base.encoder.encode(row.example, row.number)[0] for row in rows]
    layers, found = patched_layers(base.model), dict[int, list[float]]()
    for group, batch in forward_passes(items, base.base.pad_id, tokens_of_reading(base.base.device)):
        facts = [factual_tokens(base, items[at], rows[at]) for at in group]
        labels = torch.tensor([token for at in group for token in items[at].answer_ids])
        with source.on(), layer_outputs(source.model, layers) as states:
            answer_hidden(decoder_of(source.model), on(source, batch))
        with base.on():
            own = fact_logprobs(base, on(base, batch), labels, facts)
            lost = []
            for layer in layers:
                with put_in(base.model, layer, states[layer].to(base.base.device)):
                    lost.append(own - fact_logprobs(base, on(base, batch), labels, facts))
        for at, each in zip(group, torch.stack(lost, 1).tolist(), strict=True):
            found[rows[at].number] = each
    return {row.number: found[row.number] for row in rows}


def on(view: View, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A pass on the device of a model."""
    return {name: value.to(view.base.device) for name, value in batch.items()}


def fact_logprobs(
    view: View, batch: Mapping[str, torch.Tensor], labels: torch.Tensor, facts: Sequence[Sequence[bool]]
) -> torch.Tensor:
    """(rows,) mean log-probability of each row's factual tokens, each after the true ones before it."""
    hidden = answer_hidden(decoder_of(view.model), batch)
    wanted = torch.tensor([fact for each in facts for fact in each], device=hidden.device)
    told = view.head().per_token(label_logprob, hidden[wanted], labels.to(hidden.device)[wanted])
    return torch.stack([part.mean() for part in told.split([sum(each) for each in facts])]).cpu()


@contextmanager
def put_in(model: torch.nn.Module, layer: int, states: torch.Tensor) -> Iterator[None]:
    """Inside, a layer puts out these states instead of its own."""

    def replace(module: torch.nn.Module, args: tuple, output: Output) -> Output:
        return (states, *output[1:]) if isinstance(output, tuple) else states

    handle = decoder_and_layers(model)[1][layer].register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
