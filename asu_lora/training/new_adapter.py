"""A fresh LoRA adapter on a base, and the base as it was after it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers.pytorch_utils import Conv1D

from asu_lora.config import ALL_LINEAR, ForgetConfig, parse_layers
from asu_lora.errors import SettingError, first_line
from asu_lora.models.decoder import base_model, number_of_layers
from asu_lora.models.frozen_adapters import FrozenAdapters


def add_adapter(model: torch.nn.Module, config: ForgetConfig, ground: FrozenAdapters | None = None) -> PeftModel:
    """Put a fresh LoRA adapter on the base and its ground (B = 0: the student starts as what is there).

    Raises:
        SettingError: the target modules aren't in this base, or take in its output head.
    """
    modules, ground = config.modules(), ground or FrozenAdapters()
    layers = parse_layers(config.adapter_layers, number_of_layers(model))
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]  # PEFT takes any number, and says int
        lora_dropout=config.dropout,
        target_modules=linear_names(model) if modules == ALL_LINEAR else modules,
        layers_to_transform=layers,
    )
    try:
        student = ground.add(model, lora)
    except ValueError as error:
        raise SettingError(
            f"The target modules '{config.target_modules}' don't fit {type(model).__name__}: {first_line(error)}"
        ) from error
    head = base_model(student).get_output_embeddings()
    if any(parameter.requires_grad for parameter in head.parameters()):
        ground.drop(student)
        raise SettingError(
            "The target modules take in the output head; it stays frozen, so that teacher and student "
            "share it: name the attention and MLP modules instead."
        )
    return student


def linear_names(model: torch.nn.Module) -> list[str]:
    """The names (``q_proj``, ``up_proj``, ...) of the linear maps inside the decoder's layers, the head left out.

    PEFT's own ``all-linear`` writes every layer's full name into the adapter's config; short names say the same
    in a form that every inference server reads.
    """
    head = base_model(model).get_output_embeddings()
    wrapped = {
        name: module.get_base_layer() for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)
    }  # by an adapter beneath; what is inside isn't the base's
    inside = tuple(f"{name}." for name in wrapped)
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(wrapped.get(name, module), (torch.nn.Linear, Conv1D))
            and module is not head
            and not name.startswith(inside)
        }
    )


@contextmanager
def adapted(model: torch.nn.Module, config: ForgetConfig, ground: FrozenAdapters | None = None) -> Iterator[PeftModel]:
    """The base with a fresh adapter on it; after the block, however it ends, it is what it was before it."""
    ground = ground or FrozenAdapters()
    student = add_adapter(model, config, ground)
    try:
        yield student
    finally:
        ground.drop(student)
        if config.gradient_checkpointing:
            base_model(model).gradient_checkpointing_disable()
        model.eval()
