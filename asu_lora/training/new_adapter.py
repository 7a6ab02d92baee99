"""A fresh LoRA adapter on a base, and the base as it was after it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import LoraConfig, PeftModel

from asu_lora.config import ALL_LINEAR, ForgetConfig
from asu_lora.errors import SettingError, first_line
from asu_lora.layer_ranges import parse_layers
from asu_lora.models.decoder import base_model, number_of_layers
from asu_lora.models.frozen_adapters import FrozenAdapters
from asu_lora.models.renamed import renamed_quietly
from asu_lora.training.target_modules import linear_names, target_modules, without_adapter

# what transformers sets on modules for gradient checkpointing, and leaves there
CHECKPOINTING = (
    "gradient_checkpointing",
    "_gradient_checkpointing_func",
    "_require_grads_hook",
    "_require_grads_hooks",
)


def add_adapter(model: torch.nn.Module, config: ForgetConfig, ground: FrozenAdapters | None = None) -> PeftModel:
    """Put a fresh LoRA adapter on the base and its ground (B = 0: the student starts as what is there).

    Raises:
        SettingError: the target modules aren't in this base, are experts, or take in its output head.
    """
    targets, ground = target_modules(model, config.modules()), ground or FrozenAdapters()
    rank_note(model, config)
    layers = parse_layers(config.adapter_layers, number_of_layers(model))
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]  # PEFT takes any number, and says int
        lora_dropout=config.dropout,
        target_modules=targets.names,
        exclude_modules=targets.exclude,
        layers_to_transform=layers,
    )
    try:
        student = ground.add(model, lora)
    except ValueError as error:
        raise SettingError(
            f"The target modules '{config.target_modules}' don't fit {type(model).__name__}: {first_line(error)}"
        ) from error
    # PEFT keeps a set, which would be written in another order each time.
    lora.target_modules = sorted(targets.names)
    head = base_model(student).get_output_embeddings()
    if any(parameter.requires_grad for parameter in head.parameters()):
        ground.drop(student)
        raise SettingError(
            "The target modules take in the output head; it stays frozen, so that teacher and student "
            "share it: name the attention and MLP modules instead."
        )
    if config.modules() != ALL_LINEAR and (missing := without_adapter(student, targets.names)):
        ground.drop(student)
        raise SettingError(
            f"{type(model).__name__} has no {', '.join(missing)} in the layers of --adapter-layers; there are "
            f"{', '.join(linear_names(model))}: correct --target-modules."
        )
    return student


def rank_note(model: torch.nn.Module, config: ForgetConfig) -> str | None:
    """One sentence where the rank is more than the smallest adapted matrix can have: more factors only take memory.

    Raises:
        SettingError: it is more than any of them can have, or see :func:`target_modules`.
    """
    ends = tuple(f".{name}" for name in target_modules(model, config.modules()).names)
    sizes = [
        min(module.in_features, module.out_features)
        for name, module in model.named_modules()
        if name.endswith(ends) and isinstance(module, torch.nn.Linear)
    ]
    if not sizes or config.rank <= min(sizes):
        return None
    if config.rank > max(sizes):
        raise SettingError(
            f"--rank {config.rank} is more than any matrix of this base that gets an adapter can have: {max(sizes)} at "
            f"most, and {min(sizes)} the smallest."
        )
    return (
        f"--rank {config.rank} is more than the smallest adapted matrix can have, {min(sizes)}: there the rest is idle."
    )


@contextmanager
def adapted(model: torch.nn.Module, config: ForgetConfig, ground: FrozenAdapters | None = None) -> Iterator[PeftModel]:
    """The base with a fresh adapter on it; after the block, however it ends, it is what it was before it."""
    ground = ground or FrozenAdapters()
    before = [
        (vars(each), {name: vars(each)[name] for name in CHECKPOINTING if name in vars(each)})
        for each in model.modules()
    ]
    student = add_adapter(model, config, ground)
    try:
        yield student
    finally:
        ground.drop(student)
        if config.gradient_checkpointing:
            with renamed_quietly():
                base_model(model).gradient_checkpointing_disable()
            for now, had in before:
                for name in CHECKPOINTING:
                    now.pop(name, None)
                now.update(had)
        model.eval()
