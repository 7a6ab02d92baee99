"""How strong a trained adapter is left: as strong as its request needs, and no stronger.

Whatever an adapter forgets beyond that is paid for by what is kept, and in a sum of adapters many times over
(docs/results/adding_up.md). So its own curve of forgetting against strength is measured, by forward passes over the
forget rows alone, and its strength read off there. The manifest keeps the curve.

Merged into a base and rounded to 4 bits, an adapter loses what is smaller than half a step, and its facts come back
(Zhang et al., arXiv 2410.16454). A stronger one loses less of itself. So the strength may be raised until the rounded
model has forgotten too (docs/results/robust.md).
"""

from collections.abc import Sequence

import torch
from accelerate.utils import broadcast_object_list
from peft import PeftModel

from asu_lora.adapters.forgetting_curve import enough
from asu_lora.data.sampling import sample
from asu_lora.evaluation.set_scores import example_probabilities
from asu_lora.forgetting.run import ForgetRun
from asu_lora.losses import TrainingSet
from asu_lora.models.hidden_states import answer_logprobs, hidden_states
from asu_lora.training.doses import Doses, strengthen
from asu_lora.training.rounded_maps import merged_and_rounded

SHARES = (0.4, 0.6, 0.8, 1.0)  # of the middle of the doses: the strengths that are measured
STRONGER = (1.0, 1.15, 1.3, 1.5)  # times what is enough: the strengths that are rounded
MOST_ROWS = 40


def settle(run: ForgetRun, student: PeftModel, forget: TrainingSet) -> None:
    """Give a trained adapter its strength for good: the middle of its doses, or less where that is enough, or more
    where its facts would come back by rounding to 4 bits.

    The middle (geometric) of the doses at which its forget rows met it: others beside it add to its strength or take
    from it, and so it has been trained on both sides of where it stands.
    """
    middle, share, rounded = run.config.forget_dose**0.5, run.config.settle_at, run.config.settle_rounded
    if not (share or rounded) or "answer" not in forget.rows.views:
        if share or rounded:
            run.progress.note(
                f"The loss {run.config.objective} never looks at the true answers, so --settle-at and --settle-rounded "
                "are not looked at: the adapter keeps the strength it was trained at."
            )
        strengthen(student, middle)
        return
    strengths = [middle * each for each in SHARES] if share else [middle]
    stage = 1 + len(strengths) + (1 + len(STRONGER) if rounded else 0)
    run.progress.stage("How strong the adapter must be", stage)
    without, *found = _curve(run, student, forget, [0.0, *strengths])
    chosen = enough(strengths, found, share * without) if share else middle
    if rounded:
        stronger = [chosen * each for each in STRONGER]
        chosen = _enough_rounded(run, student, forget, stronger, rounded * without)
        if chosen > strengths[-1]:
            strengths, found = [*strengths, chosen], [*found, *_curve(run, student, forget, [chosen])]
    if share:
        run.record.forgetting_curve = [
            {"weight": round(strength / chosen, 4), "forget_probability": round(probability, 4)}
            for strength, probability in zip([0.0, *strengths], [without, *found], strict=True)
        ]
    strengthen(student, chosen)
    run.progress.note(f"The adapter is left at {chosen:.2f} of the strength it was trained at.")


def _curve(run: ForgetRun, student: PeftModel, forget: TrainingSet, strengths: Sequence[float]) -> list[float]:
    """Mean answer probability of the forget rows with the adapter at each strength."""
    doses, rows = Doses(student), forget.rows
    at = sample(range(len(rows)), MOST_ROWS)
    items = [rows.answers[i] for i in at]
    entries = [rows.entries["answer"][i] for i in at] if run.frozen_layers is not None else None
    found = []
    for strength in strengths:
        with doses.given(torch.tensor(strength)):
            states = hidden_states(student, items, run.base.pad_id, entry=run.frozen_layers, entries=entries)
        values = example_probabilities(items, answer_logprobs(run.base.head, items, states))
        found.append(sum(values) / len(values))
        run.progress.advance(1, forget_probability=found[-1])
    return broadcast_object_list([found])[0]  # one strength, should processes round differently


def _enough_rounded(
    run: ForgetRun, student: PeftModel, forget: TrainingSet, strengths: Sequence[float], level: float
) -> float:
    """The lowest strength that is enough once merged and rounded to 4 bits; none beyond it is measured."""
    found: list[float] = []
    for strength in strengths:
        with merged_and_rounded(student, strength, run.base.compute_dtype):
            found += _curve(run, student, forget, [strength])
        if found[-1] <= level:
            break
    return enough(strengths[: len(found)], found, level)
