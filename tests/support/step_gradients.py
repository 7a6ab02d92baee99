"""The adapter's gradient in a run's first step, through the real Trainer; run as a module, by several processes."""

import sys
import tempfile
from pathlib import Path

import torch
from transformers import TrainerCallback

from asu_lora.batches.collator import ON_POLICY
from asu_lora.data.chat_template import special_ids
from asu_lora.data.encoding import Encoder
from asu_lora.data.request import ForgetRequest
from asu_lora.data.training_rows import TrainingRows
from asu_lora.forgetting.prepare import build_losses, training_sets
from asu_lora.losses import TrainingSet
from asu_lora.losses.on_policy import OnPolicyKL
from asu_lora.models.loading import LoadedBase, load_base
from asu_lora.progress import Progress
from asu_lora.teacher.fluency import fluency_masks, table
from asu_lora.teacher.targets import compute_references
from asu_lora.teacher.teacher import Teacher
from asu_lora.training.new_adapter import adapted
from asu_lora.training.phases import Phase
from asu_lora.training.student import Student
from asu_lora.training.trainer import layer_of, train
from tests.support.tiny_run import FACTS, tiny_settings

# every loss once, and both kinds of mean side by side
PAIRS = (
    ("asu", "kl-answers"),
    ("asu+idk", "gd"),
    ("npo", "kl"),
    ("dpo", "ap"),
    ("idk", "gd"),
    ("me", "kl-answers"),
    ("ga", "kl"),
    ("simnpo", "js"),
    ("wga", "js"),
    ("satimp", "gd"),
    ("undial", "kl-answers"),
    ("ceu", "gd"),
    ("jensun", "js"),
    ("rmu", "rmu"),
    ("altpo", "gd"),
    ("pdu", "gd"),
)
# the kinds of mean among them; ceu divides by a number of its own: the tokens less the rows
KINDS = (*PAIRS[:7], ("ceu", "gd"))


class FirstGradient(TrainerCallback):
    """Keeps the gradient of the first step, and ends the run."""

    def __init__(self, student: torch.nn.Module):
        self.student, self.gradient = student, torch.empty(0)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.gradient = torch.cat([p.grad.flatten().clone() for p in self.student.parameters() if p.requires_grad])
        control.should_training_stop = True


def request(forget: int) -> ForgetRequest:
    """Questions whose answers are of very different lengths."""
    facts = [
        {"question": f"What does {name} do?", "answer": " and ".join([f"{name} {does}"] * (1 + at % 4))}
        for at, (name, does) in enumerate(FACTS)
    ]
    return ForgetRequest.from_rows(facts[:forget], facts[-4:], "shares")


def step_gradient(base: LoadedBase, pair: tuple[str, str], forget: int = 8, **changes) -> torch.Tensor:
    """The gradient of the adapter, flat, of a student that has moved away from the base."""
    config = tiny_settings(
        objective=pair[0],
        retain_loss=pair[1],
        epochs=1,
        optimizer="sgd",
        max_grad_norm=1e9,
        warmup=0.0,
        retain_per_forget=2,
        **changes,
    )
    asked, losses = (
        request(forget),
        build_losses(config, special_ids(base.tokenizer), base.device, base.number_of_layers),
    )
    refusals = ["I don't know.", "That is something I can't tell you anything about, sorry.", "No idea."]
    others = [f"No one knows what {name} does." for name, _ in FACTS[:forget]]
    sets = training_sets(asked, Encoder(base.tokenizer), losses, refusals, config, others)
    teacher = None
    if losses["forget"].uses_teacher():
        teacher = Teacher(3.0, fluency=fluency_masks(sets["forget"].rows, base.tokenizer))
        own = sets["forget"].rows.answers[1:4]  # beside three of the forget rows
        never = {"answer": {"ruled_out": table([[[5]] * len(item.answer_ids) for item in own])}}
        sets[ON_POLICY] = TrainingSet(OnPolicyKL(), TrainingRows({"answer": own}, never, beside={0: 0, 3: 1, 6: 2}))
    for each in sets.values():
        compute_references(base, each, teacher)
    with adapted(base.model, config) as peft, tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(1)
        for parameter in peft.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.05)
        caught = FirstGradient(peft)
        layer = layer_of(losses)
        train(
            Student(peft, layer=layer),
            sets,
            Phase(config, 0),
            base,
            Path(folder),
            progress=Progress(),
            callbacks=[caught],
        )
    return caught.gradient


def main(base: str, to: str) -> None:
    """Both processes train; the first writes."""
    loaded = load_base(base, "fp32", "cpu")
    found = {" ".join(pair): step_gradient(loaded, pair, batch_size=4) for pair in KINDS}
    if torch.distributed.get_world_size() == 2 and torch.distributed.get_rank() == 0:
        torch.save(found, to)


if __name__ == "__main__":
    main(*sys.argv[1:])
