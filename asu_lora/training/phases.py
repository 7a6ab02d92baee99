"""The two phases of a run: the forget and retain rows alone, then the student's own answers beside them."""

import math
from collections.abc import Sequence
from dataclasses import replace

from asu_lora.config import ForgetConfig
from asu_lora.data.encoding import Encoded
from asu_lora.data.examples import Example

LR = 0.5  # of the first part's peak: what was learnt there is only put right


def phases(
    config: ForgetConfig, forget_rows: Sequence[Encoded], examples: Sequence[Example], processes: int = 1
) -> tuple[ForgetConfig, ForgetConfig | None]:
    """The settings of a run's two parts: without the student's own words, and with them.

    Returns:
        Both, together of as many steps as the whole; or the whole run and None where the second would be less than
        a step, or nothing is asked.
    """
    an_epoch = math.ceil(math.ceil(len(forget_rows) / (config.batch_size * processes)) / config.grad_accum)
    steps = math.ceil(config.epochs * an_epoch)
    last = int(config.own_words * steps)
    if last < 1 or all(examples[row.example].is_passage for row in forget_rows):
        return config, None

    def epochs(count: int) -> float:
        return (count - 0.5) / an_epoch  # Trainer rounds steps up: half a step less, and no rounding adds one

    return replace(config, epochs=epochs(steps - last)), replace(config, epochs=epochs(last), lr=config.lr * LR)
