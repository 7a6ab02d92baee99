"""All that the memory of a run depends on, read from shapes: the base on the meta device, and the encoded rows."""

from dataclasses import dataclass, field

import torch
from accelerate import init_empty_weights
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from asu_lora.data.encoding import Encoded
from asu_lora.errors import BaseModelError, first_line
from asu_lora.losses import TrainingSet
from asu_lora.memory_plan.meta_simulation import LiveBytes
from asu_lora.models.decoder import base_model


@dataclass
class PlannedRun:
    """All that the memory of a run depends on, besides its settings.

    Attributes:
        model: the base on the meta device, in the compute type.
        device, compute: where it will run, and the type of its matrix products.
        sets: encoded rows without references, and their losses.
        evaluated: the rows that are measured before and after, one list a set.
        checkpoint: bytes of the checkpoint's files.
        notes: what a person should know of the rows, one sentence each.
        precision: what the weights are held in; the config's where it is left out.
    """

    model: PreTrainedModel
    device: torch.device
    compute: torch.dtype
    sets: dict[str, TrainingSet]
    evaluated: list[list[Encoded]] = field(default_factory=list)
    checkpoint: int = 0
    notes: list[str] = field(default_factory=list)
    precision: str | None = None


def meta_model(
    model_config: PretrainedConfig, compute: torch.dtype, trust_remote_code: bool = False
) -> PreTrainedModel:
    """A base of shapes alone, frozen, in eval mode.

    Raises:
        BaseModelError: its config makes no sense.
    """
    try:
        with init_empty_weights():
            model = AutoModelForCausalLM.from_config(model_config, dtype=compute, trust_remote_code=trust_remote_code)
        model.tie_weights()  # every parameter was made anew on the meta device
        for module in model.modules():  # and so are buffers that a checkpoint holds: DeepSeek-V3's router has one
            for name in module._buffers.keys() - module._non_persistent_buffers_set:
                if (buffer := module._buffers[name]) is not None:
                    module._buffers[name] = buffer.to("meta")
    except Exception as error:  # a model's own code raises errors of every kind
        raise BaseModelError(f"The base can't be built from its config: {first_line(error)}") from error
    return model.requires_grad_(False).eval()


def live_bytes(run: PlannedRun) -> LiveBytes:
    """A count of what passes hold beside the base."""
    live = LiveBytes(base_model(run.model).get_output_embeddings().weight.shape[0])
    live.ignore([*run.model.parameters(), *run.model.buffers()])
    return live
