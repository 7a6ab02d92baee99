"""How much of a GPU one worker takes: what the memory plan says of the largest request that waits."""

import math

import torch

from asu_lora.config import ForgetConfig
from asu_lora.errors import NotEnoughMemory
from asu_lora.forgetting.dry_run import planned_run
from asu_lora.hardware.device import choose_device
from asu_lora.memory_plan.fit import size
from asu_lora.memory_plan.plan import plan_memory
from asu_lora.requests.ledger.states import TRAINED
from asu_lora.requests.runner.workshop import Workshop
from asu_lora.requests.text_vault import RequestText

LOOKED_AT = 3  # of the largest requests; a plan takes a second or two


def gpu_share(peak: int, card: int) -> float:
    """The share of a card that a run takes, in hundredths, rounded up.

    Args:
        peak, card: bytes.

    Raises:
        NotEnoughMemory: it is more than the card has.
    """
    if peak > card:
        raise NotEnoughMemory(
            f"The largest request needs {size(peak)} and the card has {size(card)}: lower --micro-batch-tokens, or add "
            "--gradient-checkpointing."
        )
    return math.ceil(100 * peak / card) / 100


def share_of_queue(shop: Workshop) -> float:
    """The share for any request of the queue; 0 where training is on the CPU."""
    config = shop.settings.config
    device = choose_device(config.device)
    if device.type != "cuda":
        return 0.0
    waiting = [request.id for request in shop.waiting() if request.state != TRAINED]
    card = torch.cuda.get_device_properties(device).total_memory
    return gpu_share(largest_peak(shop, waiting, config), card) if waiting else 1.0


def largest_peak(shop: Workshop, waiting: list[str], config: ForgetConfig) -> int:
    """Bytes at the peak of the requests with the longest rows and with the most text."""
    texts = {name: shop.text(name) for name in waiting}
    by_size = sorted(texts, key=lambda name: sum(map(len, texts[name].rows())))[-LOOKED_AT:]
    by_row = sorted(texts, key=lambda name: max(map(len, texts[name].rows())))[-LOOKED_AT:]
    return max(_peak(texts[name], name, shop.settings.base, config) for name in {*by_size, *by_row})


def _peak(text: RequestText, name: str, base: str, config: ForgetConfig) -> int:
    return plan_memory(planned_run(text.request(name), base, config), config).peak
