"""The base's modules without its weights: which tensor of the checkpoint each loads, and which bitsandbytes
would hold in 4 bit.

Both questions are answered by transformers itself, on a model whose weights are all on the meta device.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from asu_lora.bases.source import BaseSource
from asu_lora.errors import BaseModelError, first_line
from asu_lora.safetensors_header import TensorInfo


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
    source: BaseSource,
    tensors: Mapping[str, TensorInfo],
    trust_remote_code: bool = False,
    skip_modules: list[str] | None = None,
) -> Skeleton:
    """Build the base on the meta device and look at it; seconds, and next to no memory.

    Args:
        tensors: of the checkpoint.
        skip_modules: ``llm_int8_skip_modules``; None for transformers' own choice.

    Raises:
        BaseModelError: the base is no causal language model, its config can't be read, or its tensors don't fit that.
    """
    from transformers import AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    from asu_lora.models.prepared_base import causal_lm_config
    from asu_lora.models.weight_map import parameters_by_tensor, refuse_incomplete

    config = causal_lm_config(source, trust_remote_code)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # a model's own code raises errors of every kind
        raise BaseModelError(f"'{source.name}' can't be built from its config: {first_line(error)}") from error
    refuse_incomplete(model, tensors, source.name)
    parameters = model.state_dict()
    links = [(target, source) for target, source in model.all_tied_weights_keys.items() if target != source]
    four_bit, skipped = _four_bit_modules(model, skip_modules)
    return Skeleton(
        model=model,
        parameter_of=parameters_by_tensor(model, tensors),
        shapes={name: tuple(parameter.shape) for name, parameter in parameters.items()},
        conv1d={name for name, module in model.named_modules() if isinstance(module, Conv1D)},
        tied=dict(links) | {target: source for source, target in links},
        four_bit=four_bit,
        skipped=skipped,
        keep_fp32=_keep_fp32(model),
    )


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
