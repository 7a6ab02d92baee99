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
        may_stop: whether it ends once the facts are gone (:mod:`asu_lora.training.stop_early`).
        steps: at most.
        an_epoch: steps of an epoch.
    """

    config: ForgetConfig
    seed: int
    label: str = "Training"
    folder: str = ""
    may_stop: bool = False
    steps: int = 0
    an_epoch: int = 1

    def shortened(self, share: float) -> "Phase":
        """The same phase with this share of its steps, rounded, and one at the least."""
        steps = max(1, round(share * self.steps))
        return replace(self, steps=steps, config=replace(self.config, epochs=epochs_of(steps, self.an_epoch)))


def epochs_of(steps: int, an_epoch: int) -> float:
    """Epochs that make so many steps. Trainer rounds steps up: half a step less, and no rounding adds one."""
    return (steps - 0.5) / an_epoch


def phases(config: ForgetConfig, sets: Mapping[str, TrainingSet], processes: int = 1) -> tuple[Phase, Phase | None]:
    """The phases of a run: without the student's own answers, and with them.

    Returns:
        Both, together of as many steps as the whole. Or the whole run and None: where the loss has no teacher, where
        answers are left as they come (``--no-keep-speaking``), where the second phase would be less than a step, or
        where nothing is asked.
    """
    forget = sets["forget"]
    an_epoch = math.ceil(math.ceil(len(forget) / (config.batch_size * processes)) / config.grad_accum)
    steps = math.ceil(config.epochs * an_epoch)
    may_stop = config.stop_early and judged(forget)
    whole = Phase(config, config.seed, may_stop=may_stop, steps=steps, an_epoch=an_epoch)
    last = int(config.own_words * steps)
    asks = any(not forget.rows.examples[row.example].is_passage for row in forget.rows.answers)
    if not (last >= 1 and asks and config.keep_speaking and forget.loss.uses_teacher()):
        return whole, None
    first = replace(whole, steps=steps - last, config=replace(config, epochs=epochs_of(steps - last, an_epoch)))
    settings = replace(config, epochs=epochs_of(last, an_epoch), lr=config.lr * ON_POLICY_LR)
    label = "Training, its own answers too"
    return first, Phase(settings, config.seed + 1, label, ON_POLICY_FOLDER, steps=last, an_epoch=an_epoch)


def judged(forget: TrainingSet) -> bool:
    """Whether the loss looks at the true answers, whose probability says when the facts are gone."""
    return "base_logprob" in forget.loss.needs.get("answer", ())
