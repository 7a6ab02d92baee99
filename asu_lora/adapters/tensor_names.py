"""What an adapter's tensors are called: the many ways to write one name, and where it belongs in a base.

Names arrive with the marks of whatever wrapped the model when it was saved, and of older class layouts. Marks are
taken off here. A name that then has no place in the base is not guessed at: whoever loads the adapter refuses it.
"""

import re
from collections.abc import Collection, Iterable

PREFIX = "base_model.model."
LINEAR_FACTORS = (".lora_A.weight", ".lora_B.weight")
EMBEDDING_FACTORS = (".lora_embedding_A", ".lora_embedding_B")

# torch.compile, FSDP and activation checkpointing put a name of their own into the path, at any depth.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
# PEFT leaves its name of the adapter out when it saves; a plain state dict has it.
_ADAPTER_NAME = re.compile(r"\.(lora_[AB]|lora_magnitude_vector)\.[^.]+\.(weight|bias)$")
_EMBEDDING_ADAPTER_NAME = re.compile(r"\.(lora_embedding_[AB]|lora_magnitude_vector)\.(?!weight$|bias$)[^.]+$")
_OWN_WEIGHT = re.compile(r"\.base_layer\.(weight|bias)$")  # a copy of the base's, of a module that has a LoRA too
_SAVED_MODULE = re.compile(r"\.modules_to_save\.[^.]+\.")
# Nothing but nesting: which of these lie around the decoder differs between the classes of one architecture.
_LAYOUT = ("model.", "language_model.", "text_model.", "transformer.")


def canonical(key: str) -> str:
    """A tensor's name as PEFT itself writes it: ``base_model.model.<module>.lora_A.weight``."""
    name = _WRAPPERS.sub("", key)
    name = name.removeprefix("module.")  # DataParallel and DeepSpeed
    while name.startswith(PREFIX):
        name = name.removeprefix(PREFIX).removeprefix("module.")
    name = _SAVED_MODULE.sub(".", _ADAPTER_NAME.sub(r".\1.\2", name))
    return PREFIX + _OWN_WEIGHT.sub(r".\1", _EMBEDDING_ADAPTER_NAME.sub(r".\1", name))


def module_of(key: str) -> str:
    """The module that a canonical name belongs to, without PEFT's prefix: everything before the factor's name."""
    return re.split(r"\.(?:lora_|trainable_tokens|token_adapter)", key.removeprefix(PREFIX), maxsplit=1)[0]


def without_layout(module: str) -> str:
    """A module's name without the nesting around its decoder: ``layers.0.mlp.up_proj``, ``lm_head``."""
    while outer := next((part for part in _LAYOUT if module.startswith(part)), None):
        module = module.removeprefix(outer)
    return module


def aligned(modules: Iterable[str], there: Collection[str]) -> dict[str, str]:
    """Where modules named after another layout of the same architecture are in this base.

    Args:
        modules: names from an adapter.
        there: the base's modules.

    Returns:
        {name in the adapter: name in the base}; a name that is there, or that fits nowhere or twice, stays as it is.
    """
    places: dict[str, list[str]] = {}
    for name in there:
        places.setdefault(without_layout(name), []).append(name)
    found = {}
    for module in modules:
        fitting = places.get(without_layout(module), []) if module not in there else []
        found[module] = fitting[0] if len(fitting) == 1 else module
    return found
