"""A run of the trainer alone: its sets, a student away from the base, and what was logged."""

from contextlib import contextmanager
from types import SimpleNamespace

import torch
from transformers import TrainerCallback

from asu_lora.batches.collator import ON_POLICY
from asu_lora.batches.forget_retain_pairs import ForgetRetainPairs
from asu_lora.data.encoding import Encoder
from asu_lora.data.training_rows import TrainingRows
from asu_lora.forgetting.prepare import build_losses, training_sets
from asu_lora.losses import TrainingSet, losses_of
from asu_lora.losses.on_policy import OnPolicyKL
from asu_lora.teacher.fluency import table
from asu_lora.teacher.targets import compute_references
from asu_lora.training.arguments import training_arguments
from asu_lora.training.new_adapter import adapted
from asu_lora.training.phases import Phase
from asu_lora.training.student import Student
from asu_lora.training.trainer import UnlearningTrainer, coefficients, collator_of, train
from tests.support.listener import Listener
from tests.support.tiny_run import tiny_request, tiny_settings

SIMPLE = dict(
    objective="npo", retain_loss="gd", epochs=1, optimizer="sgd", warmup=0.0, forget_coeff=0.5, retain_coeff=3.0
)


def sets_of(base, config, own=False):
    """Forget and retain rows with their references; with ``own`` the student's own answers beside one of them."""
    of = build_losses(config, (), base.device)
    sets = training_sets(tiny_request(4, 4), Encoder(base.tokenizer), of, [], config)
    if own:
        item = sets["forget"].rows.answers[1]
        never = {"answer": {"ruled_out": table([[[5]] * len(item.answer_ids)])}}
        sets[ON_POLICY] = TrainingSet(OnPolicyKL(), TrainingRows({"answer": [item]}, never, beside={0: 0}))
    for each in sets.values():
        compute_references(base, each)
    return sets


class Watch(TrainerCallback):
    """What is logged, the gradient of each step, and the parameters before the first."""

    def __init__(self, student):
        self.student, self.logs, self.gradients = student, [], []

    def trained(self):
        return [p for p in self.student.parameters() if p.requires_grad]

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.gradients.append(torch.cat([p.grad.flatten().clone() for p in self.trained()]))

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append(dict(logs))


@contextmanager
def moved(base, config):
    """A student away from the base, whose adapter has gradients everywhere."""
    with adapted(base.model, config) as peft:
        torch.manual_seed(1)
        for parameter in peft.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.05)
        yield peft


def run(base, folder, own=False, listener=None, **changes):
    config = tiny_settings(**SIMPLE | changes)
    with moved(base, config) as peft:
        watch = Watch(peft)
        heard = listener or Listener()
        closing = train(
            Student(peft), sets_of(base, config, own), Phase(config, 7, "Training it"), base, folder,
            progress=heard, callbacks=[watch],
        )  # fmt: skip
        after = {name: p.detach().clone() for name, p in peft.named_parameters() if p.requires_grad}
    return SimpleNamespace(watch=watch, heard=heard, closing=closing, after=after, config=config)


@contextmanager
def trainer_of(base, folder):
    config = tiny_settings(**SIMPLE)
    sets = sets_of(base, config)
    with moved(base, config) as peft:
        yield (
            UnlearningTrainer(
                Student(peft).train(),
                losses_of(sets),
                coefficients(config),
                base.head,
                args=training_arguments(config, folder, base.device, base.compute_dtype, checkpoints=True),
                train_dataset=ForgetRetainPairs(4, 4, 1, 0),
                data_collator=collator_of(sets, config, base),
            ),
            peft,
        )
