"""One adapter put on a model: every tensor of it, or none.

PEFT drops what has no place in the model and leaves as it is what the file lacks, without a word. Here both are
refused, for all commands alike: those that run the model, and those that only ask, on a model without weights.
"""

import re
from typing import Any

import torch
from peft import LoraConfig, PeftModel, PeftModelForCausalLM, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper

from asu_lora.adapters.lora_folder import LoraFolder
from asu_lora.adapters.manifest import WEIGHTS_NAME
from asu_lora.adapters.tensor_names import PREFIX
from asu_lora.errors import AdapterError
from asu_lora.models.copied_weights import refuse_misplaced_copies
from asu_lora.models.renamed import renamed_quietly

_WRAPPERS = (BaseTunerLayer, AuxiliaryTrainingWrapper)
# What PEFT and transformers raise at an adapter that doesn't fit.
MISFITS = (
    ValueError,
    RuntimeError,
    OSError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ImportError,
    re.error,  # target_modules may be a pattern
)


def put_on(model: torch.nn.Module | PeftModel, lora: LoraFolder, name: str) -> PeftModel:
    """Put an adapter on a base, or on a base that has others already; it is not active yet if there are others.

    Args:
        model: a causal LM, on the meta device if only the fit matters, or what this function gave before.
        lora: of :func:`~asu_lora.adapters.lora_folder.read_adapter`.
        name: PEFT's for it.

    Raises:
        AdapterError: a tensor of it has no place in the base, has another shape there, is missing, or holds NaN.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    refuse_misplaced_copies(lora, base)
    try:
        config = LoraConfig.from_pretrained(str(lora.path))
        config.inference_mode, config.task_type = True, "CAUSAL_LM"
        config.init_lora_weights = True  # every value is loaded over, so how it began doesn't matter any more
        placed = lora.aligned_to(_modules(base))
        if placed.modules.keys() != lora.modules.keys() and not config.target_parameters:
            _name_targets(config, placed)
        if isinstance(model, PeftModel):
            peft = model
            peft.add_adapter(name, config)
        else:
            with renamed_quietly():
                peft = PeftModelForCausalLM(model, config, name)
        fill(peft, lora, name)
    except MISFITS as error:
        reason = " ".join(str(error).split())
        raise AdapterError(f"The adapter '{lora.path.name}' doesn't fit the base: {reason[:300]}") from error
    return peft


def fill(peft: PeftModel, lora: LoraFolder, name: str) -> None:
    """Give PEFT's adapter ``name`` the values of a folder: all of them, and nothing stays as it began.

    Raises:
        AdapterError: a tensor is left over, or missing, or holds NaN or infinities.
        ValueError, RuntimeError: PEFT's, for a shape that doesn't fit.
    """
    base = peft.get_base_model()
    meta = all(parameter.device.type == "meta" for parameter in base.parameters())
    tensors = _values(lora.aligned_to(_modules(base)), meta)
    loaded: Any = set_peft_model_state_dict(peft, tensors, adapter_name=name)  # a tuple that PEFT types as a function
    missing, unexpected = loaded
    tied = tuple(f"{at}." for at, module in peft.named_modules() if getattr(module, "tied_adapter", None) is not None)
    own = [key for key in missing if f".{name}." in key or key.endswith(f".{name}")]
    own = [key for key in own if not key.startswith(tied)]  # of a tied head: it has no values of its own
    for keys, what in (
        (unexpected, "has no place in this base: it was made for another, or saved by another class"),
        (own, "is missing in its file: it was made for a smaller base, or is not whole"),
    ):
        if keys:
            more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
            key = keys[0].removeprefix(PREFIX).replace(f".{name}", "")
            raise AdapterError(f"The adapter '{lora.path.name}' can't be used: {key}{more} {what}.")


def take_off(model: torch.nn.Module) -> None:
    """Take every adapter off a base, however far PEFT came with wrapping it."""
    taken: tuple[str, ...] = ()
    for name, module in list(model.named_modules()):
        if isinstance(module, _WRAPPERS) and not name.startswith(taken):
            taken += (f"{name}.",)
            inner: torch.nn.Module = model.get_submodule(name)
            while isinstance(inner, _WRAPPERS):
                inner = inner.original_module if isinstance(inner, AuxiliaryTrainingWrapper) else inner.get_base_layer()
            model.set_submodule(name, inner)
    if hasattr(model, "peft_config"):
        del model.peft_config


def _name_targets(config: LoraConfig, placed: LoraFolder) -> None:
    """Name every module as this base does, each with its rank and alpha."""
    config.target_modules = sorted(placed.modules)
    config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
    config.rank_pattern = {"^" + re.escape(name): module.rank for name, module in placed.modules.items()}
    config.alpha_pattern = {"^" + re.escape(name): module.alpha for name, module in placed.modules.items()}


def _modules(base: torch.nn.Module) -> set[str]:
    """The names of a base's own modules, without what PEFT has put into them."""
    wrapped = tuple(f"{name}." for name, module in base.named_modules() if isinstance(module, _WRAPPERS))
    return {name for name, _ in base.named_modules() if not name.startswith(wrapped)}


def _values(lora: LoraFolder, meta: bool) -> dict[str, torch.Tensor]:
    """The tensors by canonical name; without values, and without reading them, for a base on the meta device."""
    if meta:
        return {key: torch.empty(info.shape, device="meta") for key, info in lora.tensors.items()}
    from safetensors.torch import load_file

    read = load_file(lora.path / WEIGHTS_NAME)
    values = {key: read[info.name] for key, info in lora.tensors.items()}
    for key, tensor in values.items():
        if not torch.isfinite(tensor).all():
            raise AdapterError(
                f"The adapter '{lora.path.name}' holds NaN or infinities in {key.removeprefix(PREFIX)}: it is broken, "
                "train it anew."
            )
    return values
