"""Whether a model keeps rows apart that lie end to end in one line, and so can read them without padding.

transformers numbers positions anew with every row of a line and keeps apart what is numbered anew: by a mask of
blocks (eager, sdpa), or by kernels that take rows of any length (flash attention, all rows in one line). Recurrent
layers, positions that the model counts by itself and modelling code that makes its masks without them don't heed it,
so a model is believed only after a trial.
"""

from collections.abc import Mapping
from weakref import WeakKeyDictionary

import torch
from torch import nn

from asu_lora.batches.packing import Packing, pack_group
from asu_lora.batches.padding import pad_group
from asu_lora.data.encoding import Encoded
from asu_lora.errors import SmoothingError
from asu_lora.models.decoder import answer_hidden, attention_of, decoder_and_layers, states_entering

# A GPU waits for the host to launch each pass's kernels: there few large passes pay. On two CPU cores they are worth a
# tenth of a step at most (docs/results/packing.md).
PADDED_DEVICES = {"cpu"}

# Many tokens, none of them the first few of a vocabulary: those are control tokens, whose states are chaotic.
ROW = Encoded((40, 23, 51, 30), (19, 44, 37, 58, 26, 33, 47, 21, 54, 29, 42, 35, 60))
AHEAD, OTHERS_AHEAD = Encoded((34, 27), (52, 20, 45)), Encoded((57, 38), (25, 49, 31))
LONGER = Encoded(AHEAD.prompt_ids + ROW.prompt_ids, AHEAD.answer_ids + ROW.answer_ids)

# times the rounding that was measured: what a packed row may differ by, and what a leak must exceed
ALLOWED, TELLING = 4, 5

_KNOWN: WeakKeyDictionary[nn.Module, dict[str, Packing | None]] = WeakKeyDictionary()


def packing_of(model: nn.Module, device: torch.device | None = None) -> Packing | None:
    """How rows are packed for this model; None if they are padded instead.

    The trial, five small forward passes, runs once a model and attention implementation. On the meta device it
    shows only that the model's code can run so.

    Args:
        model: a causal LM of transformers, or a PEFT model around one, in evaluation mode.
        device: where it will run, if not where it is.
    """
    if (device or next(model.parameters()).device).type in PADDED_DEVICES:
        return None
    try:
        decoder, layers = decoder_and_layers(model)
    except SmoothingError:  # nothing that the trial could look into
        return None
    implementation = attention_of(decoder)
    known = _KNOWN.setdefault(decoder, {})
    if implementation not in known:
        packing: Packing = "line" if "flash" in implementation else "lines"
        apart = not has_table_of_positions(layers) and keeps_rows_apart(decoder, layers[0])
        known[implementation] = packing if apart else None
    return known[implementation]


def has_table_of_positions(layers: nn.ModuleList) -> bool:
    """Whether a layer keeps its causal mask as a table of all positions (GPT-Neo): no line may be longer than that, and
    a line of several rows can be."""
    return any(
        buffer.dtype == torch.bool and buffer.dim() > 1 and buffer.shape[-1] == buffer.shape[-2] > 1
        for buffer in layers.buffers()
    )


@torch.no_grad()
def keeps_rows_apart(decoder: nn.Module, first_layer: nn.Module) -> bool:
    """Whether a row behind another one in its line gets the states it gets alone.

    Three things must hold. Bit for bit the same enters the first layer as when the row is alone. Bit for bit the same
    comes out of the last layer, whatever row lies ahead. And what comes out differs from the row alone by rounding
    only. How large rounding is depends on the model and its type: it is measured by the same row in another padded
    shape. How large a leak is, is measured too: the line is read as one row. The trial tells something only where the
    leak is much larger than the rounding.
    """
    together = pack_group([[AHEAD, ROW]], 0)
    width = together["input_ids"].shape[1]
    try:
        entering, alone = _states(decoder, first_layer, pad_group([ROW], 0))
        _, padded = _states(decoder, first_layer, pad_group([LONGER, ROW], 0))
        entering_apart, apart = _states(decoder, first_layer, together)
        _, behind_others = _states(decoder, first_layer, pack_group([[OTHERS_AHEAD, ROW]], 0))
        _, joined = _states(decoder, first_layer, together | {"position_ids": torch.arange(width)[None]})
    except (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError):
        return False
    if alone.is_meta:
        return True
    step = torch.finfo(alone.dtype).eps
    rounding, packed, leaked = (_distance(states, alone) for states in (padded, apart, joined))
    return (
        torch.equal(entering, entering_apart)
        and torch.equal(apart, behind_others)
        and packed <= ALLOWED * max(rounding, step, 2.5e-5)
        and leaked > TELLING * max(rounding, packed, step)
    )


def _states(
    decoder: nn.Module, first_layer: nn.Module, batch: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the last row of a pass enters the first layer with, (tokens, H), and its final states at the answer."""
    device, caught = next(decoder.parameters()).device, []
    hook = first_layer.register_forward_pre_hook(
        lambda module, args, kwargs: caught.append(states_entering(args, kwargs)), with_kwargs=True
    )
    try:
        final = answer_hidden(decoder, {name: value.to(device) for name, value in batch.items()})
    finally:
        hook.remove()
    start = int(batch["starts"][-1])
    return caught[0].flatten(0, 1)[start : start + len(ROW)], final[-len(ROW.answer_ids) :]


def _distance(states: torch.Tensor, others: torch.Tensor) -> float:
    """How far a row's states lie from the others, in parts of the others' length: the median over its tokens.

    A single token may be chaotic: in NF4 one was found whose states differ by 0.85 between two padded shapes.
    """
    states, others = states.float(), others.float()
    return ((states - others).norm(dim=-1) / others.norm(dim=-1)).median().item()
