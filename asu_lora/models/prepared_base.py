"""A base before its weights are loaded: all that can be refused by looking at its files and its config.

Loading and the dry run both begin here, so that one says no wherever the other does.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from asu_lora.bases.checkpoint_files import StoredTensor, read_checkpoint, read_config
from asu_lora.bases.quantization import NF4, recorded_settings, refuse_unnamed_format, usable_format
from asu_lora.bases.source import BaseSource, resolve_base
from asu_lora.config import PRECISIONS
from asu_lora.errors import BaseModelError, SettingError, first_line
from asu_lora.hardware.device import choose_device
from asu_lora.hardware.precision import compute_dtype
from asu_lora.safetensors_header import TensorInfo

GENERATION_CONFIG_NAME = "generation_config.json"


@dataclass(frozen=True)
class PreparedBase:
    """A base that is ready to be loaded.

    Attributes:
        source: which checkpoint it is.
        config: transformers' config.
        tensors: of the checkpoint, by name.
        precision: what the weights will be held in: ``nf4``, ``bf16``, ``fp16``, ``fp32``; ``fp4`` or ``int8`` only
            where the checkpoint is stored so.
        stored_quantized: whether the checkpoint itself is quantised.
        quantization: bitsandbytes' settings as a manifest records them, None for floats.
        device: where it will lie.
        compute_dtype: the type matrix products will run in.
    """

    source: BaseSource
    config: PretrainedConfig
    tensors: dict[str, StoredTensor]
    precision: str
    stored_quantized: bool
    quantization: dict[str, Any] | None
    device: torch.device
    compute_dtype: torch.dtype

    @property
    def infos(self) -> dict[str, TensorInfo]:
        """Type and shape of each tensor of the checkpoint."""
        return {name: stored.info for name, stored in self.tensors.items()}


def prepare_base(
    name: str | Path | BaseSource,
    precision: str = "nf4",
    device: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> PreparedBase:
    """Check a base, read no weight. The arguments are those of :func:`asu_lora.models.loading.load_base`.

    Raises:
        BaseModelError: not found, no causal LM, no safetensors, damaged, or stored in a format that isn't used here.
        SettingError: an unknown precision or device.
    """
    if precision not in PRECISIONS:
        raise SettingError(f"The precision '{precision}' is none of {', '.join(PRECISIONS)}.")
    source = name if isinstance(name, BaseSource) else resolve_base(name, revision)
    config = causal_lm_config(source, trust_remote_code)
    target = choose_device(device)
    compute = compute_dtype(precision, target)
    raw = read_config(source.path)
    stored = usable_format(raw, source.name)
    if stored and precision != "nf4":
        raise BaseModelError(
            f"'{source.name}' is stored as {stored} and can't be loaded as {precision}: "
            "use --precision nf4, which takes it as it is, or the original checkpoint."
        )
    tensors = read_checkpoint(source.path)
    refuse_unnamed_format(tensors, raw, source.name)
    quantization = recorded_settings(raw, source.name)
    if precision == "nf4" and not stored:
        quantization = {"load_in_4bit": True, **NF4}
    if quantization and quantization.get("load_in_4bit"):
        quantization |= {"bnb_4bit_compute_dtype": str(compute).removeprefix("torch.")}
    return PreparedBase(
        source=source,
        config=config,
        tensors=tensors,
        precision=stored or precision,
        stored_quantized=stored is not None,
        quantization=quantization,
        device=target,
        compute_dtype=compute,
    )


def _refuse_generation_config(source: BaseSource) -> None:
    """Loading reads it too, where there is one, and ends at one that makes no sense."""
    if (source.path / GENERATION_CONFIG_NAME).is_file():
        try:
            told = GenerationConfig.from_pretrained(source.path).eos_token_id
            if not all(isinstance(token, int) for token in (told if isinstance(told, list) else [told or 0])):
                raise ValueError("its eos_token_id is neither a number nor a list of numbers.")
        except Exception as error:  # its own checks raise errors of every kind
            raise BaseModelError(
                f"The {GENERATION_CONFIG_NAME} of '{source.name}' can't be read: {first_line(error)}"
            ) from error


def causal_lm_config(source: BaseSource, trust_remote_code: bool = False) -> PretrainedConfig:
    """The base's config, refused when the model doesn't write text from left to right.

    Raises:
        BaseModelError: no causal LM, named with what it is instead.
    """
    read_config(source.path)  # says plainly what is wrong with a damaged file
    try:
        config = AutoConfig.from_pretrained(source.path, trust_remote_code=trust_remote_code)
    except Exception as error:  # a config's own checks raise errors of every kind
        raise BaseModelError(f"The config of '{source.name}' can't be read: {first_line(error)}") from error
    _refuse_generation_config(source)
    if trust_remote_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return config
    found = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    known = (found,) if isinstance(found, str) else tuple(found or ())
    stored = config.architectures or []
    if not isinstance(stored, list) or not all(isinstance(name, str) for name in stored):
        raise BaseModelError(f"The config of '{source.name}' is damaged: 'architectures' is no list of names.")
    if (
        not known
        or getattr(config, "is_encoder_decoder", False)
        or (stored and not set(stored) & set(known) and not any("CausalLM" in s for s in stored))
    ):
        what = ", ".join(stored) or config.model_type
        raise BaseModelError(
            f"'{source.name}' is no causal language model (it is {what}): "
            "unlearning needs one that AutoModelForCausalLM loads."
        )
    return config
