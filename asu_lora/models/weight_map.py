"""Which parameter each tensor of a checkpoint becomes, by transformers' own rules, and what is left without one."""

import re
from collections.abc import Collection, Iterable, Mapping

from transformers import PreTrainedModel

from asu_lora.errors import BaseModelError
from asu_lora.safetensors_header import TensorInfo


def parameters_by_tensor(model: PreTrainedModel, tensors: Iterable[str]) -> dict[str, str]:
    """Name the parameter each tensor loads into as it is, with transformers' own renaming (its prefixes included).

    Tensors that are fused, split or turned on the way (experts of a mixture, packed projections) are left out, and so
    is a second tensor for one parameter: the first by name is loaded.
    """
    return {tensor: names[0] for tensor, names in _targets(model, tensors).items() if len(names) == 1 and names[0]}


def refuse_incomplete(model: PreTrainedModel, tensors: Mapping[str, TensorInfo], name: str) -> None:
    """Refuse a checkpoint that leaves a parameter without numbers, or has another shape than the config says.

    Args:
        model: the base on the meta device.
        tensors: of the checkpoint; those that are quantised already have other shapes, and only have to be there.

    Raises:
        BaseModelError: transformers would refuse it, or fill the parameter with random numbers.
    """
    parameters = {parameter: tuple(value.shape) for parameter, value in model.named_parameters(remove_duplicate=False)}
    loaded: set[str] = set()
    for tensor, targets in _targets(model, tensors).items():
        loaded.update(filter(None, targets))
        info, wanted = tensors[tensor], parameters.get(targets[0]) if len(targets) == 1 else None
        if wanted is not None and info.shape != wanted and "F" in info.dtype:
            raise BaseModelError(
                f"The base '{name}' is damaged: {tensor} has the shape {list(info.shape)}, and by its config "
                f"{list(wanted)}."
            )
    for one, other in model.all_tied_weights_keys.items():  # either stands for both
        if one in loaded or other in loaded:
            loaded |= {one, other}
    refuse_missing(name, {parameter for parameter in parameters if parameter not in loaded}, model)


def refuse_missing(name: str, missing: Collection[str], model: PreTrainedModel | None = None) -> None:
    """Refuse a base that has no numbers for some of its parameters.

    Raises:
        BaseModelError: there are such parameters, and the architecture does not say that they may be missing.
    """
    may = "|".join(f"(?:{pattern})" for pattern in getattr(model, "_keys_to_ignore_on_load_missing", None) or ())
    missing = sorted(parameter for parameter in missing if not may or not re.search(may, parameter))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BaseModelError(
            f"The base '{name}' is incomplete: its files hold no {missing[0]}{more}, and transformers would fill that "
            "with random numbers."
        )


def _targets(model: PreTrainedModel, tensors: Iterable[str]) -> dict[str, list[str]]:
    """The parameters that each tensor goes into: one as it is; several, or one and an empty name, after a change."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    mapping, prefix, parameters = get_model_conversion_mapping(model), model.base_model_prefix, model.state_dict()
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    converter_of = {pattern: entry for entry in converters for pattern in entry.source_patterns}
    found: dict[str, list[str]] = {}
    taken: set[str] = set()
    for tensor in sorted(tensors, key=dot_natural_key):
        target, pattern = rename_source_key(tensor, renamings, converters, prefix, parameters)
        if target not in parameters and tensor in parameters:
            target, pattern = tensor, None
        if target not in parameters or (pattern is None and target in taken):
            continue
        taken.add(target)
        if pattern is None:
            found[tensor] = [target]
        else:
            first, *others = converter_of[pattern].target_patterns
            found[tensor] = [target, *(target.replace(first, other) for other in others), ""]
    return found
