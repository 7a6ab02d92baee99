"""The base's modules without its weights: which tensor of the checkpoint each loads, and which bitsandbytes
would hold in 4 bit.

Both questions are answered by transformers itself, on a model whose weights are all on the meta device.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from asu_lora.bases.source import BaseSource
from asu_lora.errors import BaseModelError, first_line


@dataclass
class Skeleton:
    """A base's structure.

    Attributes:
        model: the base without weights.
        parameter_of: checkpoint tensor -> parameter it becomes as it is; tensors that transformers fuses or
            splits on loading (experts of a mixture, packed projections) are left out.
        shapes: parameter -> shape.
        conv1d: modules that keep their weight as (in, out), as GPT-2 does.
        tied: parameter -> the parameter it shares its memory with, both ways.
        four_bit: modules whose weight bitsandbytes holds in 4 bit.
        skipped: what transformers leaves alone when it quantises (``llm_int8_skip_modules``).
        keep_fp32: patterns of parameters that stay in fp32 whatever the model's type.
    """

    model: torch.nn.Module
    parameter_of: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    conv1d: set[str]
    tied: dict[str, str]
    four_bit: set[str] = field(default_factory=set)
    skipped: list[str] = field(default_factory=list)
    keep_fp32: dict[torch.dtype, re.Pattern | None] = field(default_factory=dict)

    def stays_fp32(self, parameter: str | None, dtype: torch.dtype) -> bool:
        """Whether transformers would load this parameter in fp32 into a model of type ``dtype``."""
        pattern = self.keep_fp32.get(dtype)
        return bool(parameter and pattern and pattern.search(parameter))


def skeleton_of(
    source: BaseSource, tensors: Iterable[str], trust_remote_code: bool = False, skip_modules: list[str] | None = None
) -> Skeleton:
    """Build the base on the meta device and look at it; seconds, and next to no memory.

    Args:
        tensors: the checkpoint's tensor names.
        skip_modules: ``llm_int8_skip_modules``; None for transformers' own choice.

    Raises:
        BaseModelError: the base is no causal language model, or its config can't be read.
    """
    from transformers import AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    from asu_lora.models.loading import causal_lm_config

    config = causal_lm_config(source, trust_remote_code)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError, RuntimeError, TypeError) as error:
        reason = first_line(error)
        raise BaseModelError(f"'{source.name}' can't be built from its config: {reason[:300]}") from error
    parameters = model.state_dict()
    links = [(target, source) for target, source in model.all_tied_weights_keys.items() if target != source]
    four_bit, skipped = _four_bit_modules(model, skip_modules)
    return Skeleton(
        model=model,
        parameter_of=_parameters_by_tensor(model, parameters, tensors),
        shapes={name: tuple(parameter.shape) for name, parameter in parameters.items()},
        conv1d={name for name, module in model.named_modules() if isinstance(module, Conv1D)},
        tied=dict(links) | {target: source for source, target in links},
        four_bit=four_bit,
        skipped=skipped,
        keep_fp32=_keep_fp32(model),
    )


def _parameters_by_tensor(model, parameters: dict, tensors: Iterable[str]) -> dict[str, str]:
    """Name the parameter each tensor loads into, with transformers' own renaming (its prefixes included)."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    mapping, prefix = get_model_conversion_mapping(model), model.base_model_prefix
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    found = {}
    for name in tensors:
        renamed, conversion = rename_source_key(name, renamings, converters, prefix, parameters)
        if renamed not in parameters and name in parameters:
            renamed, conversion = name, None
        if conversion is None and renamed in parameters:
            found[name] = renamed
    return found


def _four_bit_modules(model, skip_modules: list[str] | None) -> tuple[set[str], list[str]]:
    """The linear layers transformers would replace by ``Linear4bit``, and the names it would skip."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.base import HfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module

    skipped = sorted(HfQuantizer.get_modules_to_not_convert(model, skip_modules, model._keep_in_fp32_modules))
    linear = {name for name, module in model.named_modules() if type(module) is nn.Linear or isinstance(module, Conv1D)}
    return {name for name in linear if should_convert_module(name, skipped)}, skipped


def _keep_fp32(model) -> dict[torch.dtype, re.Pattern | None]:
    strict = set(model._keep_in_fp32_modules_strict or ())
    half = strict | set(model._keep_in_fp32_modules or ())

    def pattern(names: set[str]) -> re.Pattern | None:
        return re.compile("|".join(rf"(?:^|\.){name}(?:$|\.)" for name in sorted(names))) if names else None

    return {torch.bfloat16: pattern(strict), torch.float16: pattern(half)}
