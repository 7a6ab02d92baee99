"""What ``--settle-rounded`` holds: beside the base a copy in 4 bits of every map that the adapter stands at."""

from peft import PeftModel
from torch import nn

from asu_lora.memory_plan.byte_counts import nf4_bytes
from asu_lora.training.rounded_maps import rounded_owners

IN_HAND = 2 * 4  # bytes a weight of the map that is being rounded: it in fp32, and its sum with the update


def rounding_parts(student: PeftModel, adapter: int, reading: int) -> dict[str, int]:
    """Bytes by part, on top of what the run holds anyway.

    Args:
        adapter: bytes of the new adapter.
        reading: bytes of activations of a pass without gradients.
    """
    maps = [owner.base_layer for owner in rounded_owners(student)]
    sizes = [each.weight.numel() for each in maps if isinstance(each.weight, nn.Parameter)]
    return {
        "adapter": adapter,
        "activations": reading,
        "rounded maps": sum(map(nf4_bytes, sizes)),
        "the map in hand": IN_HAND * max(sizes, default=0),
    }
