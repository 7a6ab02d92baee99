"""The two phases of a run: the forget and retain rows alone, then the student's own answers beside them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from asu_lora.config import ForgetConfig
from asu_lora.losses import TrainingSet

ON_POLICY_LR = 0.5  # of the first phase's peak: what was learnt there is only put right
ON_POLICY_FOLDER = "own-words"  # within a run's folder; its name is part of what a resumed run finds


@dataclass(frozen=True)
class Phase:
    """A part of a run's training, with an optimizer and checkpoints of its own.

    Attributes:
        config: the settings of the run, with the epochs and the rate of this phase.
        seed: of the order of the rows.
        label: what the progress calls it.
        folder: of its checkpoints, within the run's folder.
    """

    config: ForgetConfig
    seed: int
    label: str = "Training"
    folder: str = ""


def phases(config: ForgetConfig, sets: Mapping[str, TrainingSet], processes: int = 1) -> tuple[Phase, Phase | None]:
    """The phases of a run: without the student's own answers, and with them.

    Returns:
        Both, together of as many steps as the whole. Or the whole run and None: where the loss has no teacher, where
        answers are left as they come (``--no-keep-speaking``), where the second phase would be less than a step, or
        where nothing is asked.
    """
    forget = sets["forget"]
    whole = Phase(config, config.seed)
    an_epoch = math.ceil(math.ceil(len(forget) / (config.batch_size * processes)) / config.grad_accum)
    steps = math.ceil(config.epochs * an_epoch)
    last = int(config.own_words * steps)
    asks = any(not forget.rows.examples[row.example].is_passage for row in forget.rows.answers)
    if not (last >= 1 and asks and config.keep_speaking and forget.loss.uses_teacher()):
        return whole, None

    def epochs(count: int) -> float:
        return (count - 0.5) / an_epoch  # Trainer rounds steps up: half a step less, and no rounding adds one

    first = replace(whole, config=replace(config, epochs=epochs(steps - last)))
    settings = replace(config, epochs=epochs(last), lr=config.lr * ON_POLICY_LR)
    return first, Phase(settings, config.seed + 1, "Training, its own answers too", ON_POLICY_FOLDER)
