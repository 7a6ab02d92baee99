"""The student: the frozen base with the trainable adapter on, its final hidden states as output."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from asu_lora.batches.forward_passes import answer_hidden
from asu_lora.config import ALL_LINEAR, ForgetConfig, parse_layers
from asu_lora.errors import SettingError
from asu_lora.models.decoder import number_of_layers
from asu_lora.models.frozen_adapters import Ground
from asu_lora.models.frozen_layers import Entry
from asu_lora.training.cast_recomputation import casts_kept_small


def add_adapter(model: torch.nn.Module, config: ForgetConfig, ground: Ground | None = None) -> PeftModel:
    """Put a fresh LoRA adapter on the base and its ground (B = 0: the student starts as what is there).

    Raises:
        SettingError: the target modules aren't in this base, or take in its output head.
    """
    modules, ground = config.modules(), ground or Ground()
    layers = parse_layers(config.adapter_layers, number_of_layers(model))
    lora = LoraConfig(task_type="CAUSAL_LM", r=config.rank, lora_alpha=config.lora_alpha, lora_dropout=config.dropout,
                      target_modules=linear_names(model) if modules == ALL_LINEAR else modules,
                      layers_to_transform=layers)
    try:
        student = ground.add(model, lora)
    except ValueError as error:
        raise SettingError(f"The target modules '{config.target_modules}' don't fit {type(model).__name__}: "
                           f"{str(error).splitlines()[0]}") from error
    head = student.get_base_model().get_output_embeddings()
    if any(parameter.requires_grad for parameter in head.parameters()):
        ground.drop(student)
        raise SettingError("The target modules take in the output head; it stays frozen, so that teacher and student "
                           "share it: name the attention and MLP modules instead.")
    return student


def linear_names(model: torch.nn.Module) -> list[str]:
    """The names (``q_proj``, ``up_proj``, ...) of the linear maps inside the decoder's layers, the head left out.

    PEFT's own ``all-linear`` writes every layer's full name into the adapter's config; short names say the same
    in a form that every inference server reads.
    """
    head = model.get_output_embeddings()
    wrapped = {name: module.get_base_layer() for name, module in model.named_modules()
               if isinstance(module, BaseTunerLayer)}  # by an adapter beneath; what is inside isn't the base's
    inside = tuple(f"{name}." for name in wrapped)
    return sorted({name.rpartition(".")[2] for name, module in model.named_modules()
                   if isinstance(wrapped.get(name, module), (torch.nn.Linear, Conv1D))
                   and module is not head and not name.startswith(inside)})


@contextmanager
def adapted(model: torch.nn.Module, config: ForgetConfig, ground: Ground | None = None) -> Iterator[PeftModel]:
    """The base with a fresh adapter on it; after the block, however it ends, it is what it was before it."""
    ground = ground or Ground()
    student = add_adapter(model, config, ground)
    try:
        yield student
    finally:
        ground.drop(student)
        if config.gradient_checkpointing:
            model.gradient_checkpointing_disable()
        model.eval()


class Student(torch.nn.Module):
    """The forward pass that training differentiates.

    The head is left out (losses run it on answer tokens alone), and rows come in passes of like length. One
    module with one ``forward`` so that ``DistributedDataParallel`` sees every use of the adapter.

    Args:
        model: the base with its adapter.
        gradient_checkpointing: recompute each layer in the backward pass.
        entry: where the layers begin that are run; its
            :meth:`~asu_lora.models.frozen_layers.Entry.above` must be in force.
    """

    def __init__(self, model: PeftModel, gradient_checkpointing: bool = False, entry: Entry | None = None):
        super().__init__()
        self.model = model
        self.entry = entry
        self.checkpointing = gradient_checkpointing
        if gradient_checkpointing:
            model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
            # transformers makes the embeddings need gradients, for checkpointing of the other kind: all layers would
            # run backward, and the hook would stay on the base
            model.get_base_model().disable_input_require_grads()

    def forward(self, passes: Sequence[Mapping[str, torch.Tensor]]) -> torch.Tensor:
        """Final hidden states (T, H) at the answer positions of all passes, one pass after another."""
        decoder = self.model.get_base_model().get_decoder()
        states = []
        for batch in passes:
            if self.entry is not None:
                self.entry.states = batch["entry"]
            with casts_kept_small():
                states.append(answer_hidden(decoder, batch))
        return torch.cat(states)

    def train(self, mode: bool = True) -> "Student":
        """Only the adapter trains: the base's own dropout stays off, as it is off in teacher and reference."""
        super().train(False)
        self.training = mode
        for name, module in self.model.named_modules():
            if "lora_dropout" in name or (self.checkpointing and isinstance(module, GradientCheckpointingLayer)):
                module.training = mode  # of this module alone, not of what is in it
        return self
