"""``adapter_config.json``: read with every value of its type, and the gate that all commands share.

Off must be the base, bit for bit, and on must be all of the adapter. So an adapter is served if PEFT keeps what it
adds beside the base's weights. One that writes into them, or carries settings that nobody here knows, is refused.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from asu_lora.adapters.manifest import CONFIG_NAME
from asu_lora.errors import AdapterError
from asu_lora.files import read_json


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} is no number to compute with")
    return value


Rank = Annotated[StrictInt, Field(ge=1)]
Number = Annotated[StrictInt | float, AfterValidator(_finite)]
Names = StrictStr | list[StrictStr] | None


class LoraSettings(BaseModel):
    """The fields of PEFT's ``LoraConfig`` (0.21) with their types; what else stands there is kept for the gate."""

    model_config = ConfigDict(extra="allow")

    peft_type: Literal["LORA"]
    task_type: StrictStr | None = None
    auto_mapping: dict[str, Any] | None = None
    peft_version: StrictStr | None = None
    base_model_name_or_path: StrictStr | None = None
    revision: StrictStr | None = None
    inference_mode: StrictBool = False
    r: Rank
    lora_alpha: Number = 8
    lora_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    fan_in_fan_out: StrictBool = False
    use_rslora: StrictBool = False
    use_dora: StrictBool = False
    lora_bias: StrictBool = False
    ensure_weight_tying: StrictBool = False
    bias: StrictStr = "none"
    init_lora_weights: StrictBool | StrictStr | None = True
    target_modules: Names = None
    exclude_modules: Names = None
    target_parameters: list[StrictStr] | None = None
    modules_to_save: list[StrictStr] | None = None
    layers_to_transform: StrictInt | list[StrictInt] | None = None
    layers_pattern: Names = None
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, Number] | None = None
    trainable_token_indices: list[StrictInt] | dict[str, list[StrictInt]] | None = None
    layer_replication: list[Any] | None = None
    # The settings of methods that the gate refuses, or that matter while one trains.
    alora_invocation_tokens: Any = None
    arrow_config: Any = None
    corda_config: Any = None
    eva_config: Any = None
    kasa_config: Any = None
    loftq_config: Any = None
    lora_ga_config: Any = None
    megatron_config: Any = None
    megatron_core: Any = None
    monteclora_config: Any = None
    qalora_group_size: Any = None
    runtime_config: Any = None
    use_bdlora: Any = None
    use_qalora: Any = None
    velora_config: Any = None


# Settings that change the base itself, or act in a way that can't be switched off or checked here.
_REFUSED = {
    "layer_replication": "it repeats layers of the base (layer_replication)",
    "alora_invocation_tokens": "it is an activated LoRA, which acts on some tokens only",
    "arrow_config": "it is an Arrow router, which picks its experts token by token",
    "kasa_config": "it is a KaSA, which truncates the base",
    "megatron_config": "it is made for Megatron's layers",
    "monteclora_config": "it is a MonteCLoRA, which draws its updates at random",
    "use_bdlora": "it is a block-diagonal LoRA",
    "use_qalora": "it is a QALoRA",
    "velora_config": "it is a VeLoRA",
}
# Ways to begin that leave the base alone. The others (pissa, olora, corda, loftq, lora_ga, ...) subtract a part of the
# base from its weights whenever the adapter is loaded.
_PLAIN_INITS = (True, False, None, "true", "false", "gaussian", "eva", "orthogonal")

# Served beside the base, but more than ``scaling * B A``: neither added up nor merged, and not halved by a weight.
_MORE_THAN_LORA = {
    "use_dora": "it is a DoRA, whose magnitudes rescale the base",
    "modules_to_save": "it replaces whole modules (modules_to_save)",
    "trainable_token_indices": "it retrains single token embeddings (trainable_token_indices)",
    "lora_bias": "it adds a bias of its own (lora_bias)",
    "target_parameters": "it changes bare parameters rather than modules (target_parameters)",
}
_LINEAR_IN_ITS_WEIGHT = ("lora_bias", "target_parameters")


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """``adapter_config.json`` as a dictionary, refused unless it describes a LoRA with values that make sense.

    Raises:
        AdapterError: it is missing, is not JSON, or describes something else.
    """
    try:
        config = read_json(Path(folder) / CONFIG_NAME)
    except FileNotFoundError as error:
        raise AdapterError(f"{folder} has no {CONFIG_NAME}: it is no PEFT adapter folder.") from error
    except OSError as error:
        raise AdapterError(f"{CONFIG_NAME} can't be read: {error.strerror}.") from error
    except ValueError as error:
        raise AdapterError(f"{CONFIG_NAME} is not JSON: {error}.") from error
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        named = kind[:40] if isinstance(kind, str) and re.fullmatch(r"\w+", kind) else "no adapter"
        raise AdapterError(f"{CONFIG_NAME} describes {named}, and only LoRA is kept here.")
    try:
        LoraSettings.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        where = str(first["loc"][0])
        value, where = repr(config.get(where))[:60], {"r": "rank", "lora_alpha": "alpha"}.get(where, where)
        raise AdapterError(f"{CONFIG_NAME} gives the {where} {value}, which makes no sense: {first['msg']}.") from error
    return config


def refuse_unservable(name: str, config: Mapping[str, Any]) -> None:
    """The gate: refuse an adapter that changes the base itself, or that says more than is understood here.

    Raises:
        AdapterError: naming what it does.
    """
    for field, why in _REFUSED.items():
        if config.get(field):
            raise AdapterError(f"The adapter '{name}' can't be used: {why}.")
    if config.get("bias", "none") != "none":
        raise AdapterError(
            f"The adapter '{name}' can't be used: it retrains the base's biases (bias={config['bias']!r}), which stay "
            "when it is switched off."
        )
    init = config.get("init_lora_weights", True)
    if init not in _PLAIN_INITS:
        raise AdapterError(
            f"The adapter '{name}' can't be used: its initialisation {init!r} changes the base itself; convert it to "
            "a plain LoRA with PEFT first."
        )
    for field, value in config.items():
        if field not in LoraSettings.model_fields and value not in (None, False, [], {}, "", "none"):
            version = config.get("peft_version")
            written = f", of PEFT {version}," if isinstance(version, str) else ""
            raise AdapterError(
                f"The adapter '{name}' can't be used: its setting '{field}'{written} is unknown here, so what it does "
                "can't be told; upgrade asu-lora, or save the adapter as a plain LoRA."
            )


def more_than_lora(config: Mapping[str, Any]) -> str | None:
    """What makes a served adapter more than ``scaling * B A``, in words; None for a plain LoRA."""
    return next((why for field, why in _MORE_THAN_LORA.items() if config.get(field)), None)


def refuse_weight(name: str, config: Mapping[str, Any], weight: float) -> None:
    """Refuse a weight other than 1 for an adapter whose effect is not proportional to it.

    Raises:
        AdapterError: with the way out.
    """
    for field, why in _MORE_THAN_LORA.items():
        if weight != 1 and field not in _LINEAR_IN_ITS_WEIGHT and config.get(field):
            raise AdapterError(
                f"The adapter '{name}' can't be given the weight {weight:g}: {why}, and no weight scales that; give it "
                "the weight 1, or leave it out."
            )
