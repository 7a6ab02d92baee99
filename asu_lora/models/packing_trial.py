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
from asu_lora.models.decoder import answer_hidden, decoder_and_layers

# A GPU waits for the host to launch each pass's kernels: there few large passes pay. On two CPU cores they are worth a
# tenth of a step at most (docs/results/packing.md).
PADDED_DEVICES = {"cpu"}

ROW = Encoded((4, 2), (6, 1, 5))
AHEAD, OTHERS_AHEAD = Encoded((1, 5, 2), (7, 3, 6)), Encoded((3, 7, 7), (1, 2, 4))

_KNOWN: WeakKeyDictionary[nn.Module, dict[str, Packing | None]] = WeakKeyDictionary()


def packing_of(model: nn.Module, device: torch.device | None = None) -> Packing | None:
    """How rows are packed for this model; None if they are padded instead.

    The trial, four forward passes of a line, runs once a model and attention implementation. On the meta device it
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
    implementation = decoder.config._attn_implementation or "eager"
    known = _KNOWN.setdefault(decoder, {})
    if implementation not in known:
        packing: Packing = "line" if "flash" in implementation else "lines"
        known[implementation] = packing if keeps_rows_apart(decoder, layers[0]) else None
    return known[implementation]


@torch.no_grad()
def keeps_rows_apart(decoder: nn.Module, first_layer: nn.Module) -> bool:
    """Whether a row behind another one in its line gets the states it gets alone.

    Bit for bit the same has to enter the first layer as when it is alone, and come out of the last whatever row lies
    ahead. What comes out may differ from what it gets alone by rounding only, and by much more where the line is read
    as one row: else the trial tells nothing.
    """
    together = pack_group([[AHEAD, ROW]], 0)
    width = together["input_ids"].shape[1]
    try:
        entering, alone = _states(decoder, first_layer, pad_group([ROW], 0))
        entering_apart, apart = _states(decoder, first_layer, together)
        _, behind_others = _states(decoder, first_layer, pack_group([[OTHERS_AHEAD, ROW]], 0))
        _, joined = _states(decoder, first_layer, together | {"position_ids": torch.arange(width)[None]})
    except (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError):
        return False
    if alone.is_meta:
        return True
    rounding = max(1e-4, 4 * torch.finfo(alone.dtype).eps)
    return (
        torch.equal(entering, entering_apart)
        and torch.equal(apart, behind_others)
        and _distance(apart, alone) <= rounding
        and _distance(joined, alone) > 4 * rounding
    )


def _states(
    decoder: nn.Module, first_layer: nn.Module, batch: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the last row of a pass enters the first layer with, (tokens, H), and its final states at the answer."""
    device, caught = next(decoder.parameters()).device, []
    hook = first_layer.register_forward_pre_hook(
        lambda module, args, kwargs: caught.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    try:
        final = answer_hidden(decoder, {name: value.to(device) for name, value in batch.items()})
    finally:
        hook.remove()
    start = int(batch["starts"][-1])
    return caught[0].flatten(0, 1)[start : start + len(ROW)], final[-len(ROW.answer_ids) :]


def _distance(states: torch.Tensor, others: torch.Tensor) -> float:
    """The largest distance of a token's states from the other's, in parts of the other's length."""
    states, others = states.float(), others.float()
    return ((states - others).norm(dim=-1) / others.norm(dim=-1)).max().item()
