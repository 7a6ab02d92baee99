"""What a run remembers of itself, and the adapter folder it is written into."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel

from asu_lora.adapters.manifest import (
    EVERY_POSITION,
    WEIGHTS_NAME,
    BaseRecord,
    FiguresRecord,
    Manifest,
    MethodRecord,
    RequestRecord,
    StackedOn,
    write_manifest,
)
from asu_lora.adapters.model_card import write_model_card
from asu_lora.adapters.own_inputs import write_own_inputs
from asu_lora.config import ForgetConfig
from asu_lora.data.request import ForgetRequest
from asu_lora.files import as_any_new_file
from asu_lora.losses import TrainingSet, own_settings
from asu_lora.models.decoder import text_config
from asu_lora.models.loading import LoadedBase
from asu_lora.models.saved_adapter import save_adapter
from asu_lora.teacher.tau import TauChoice
from asu_lora.training.target_modules import left_out
from asu_lora.version import library_versions

_METHOD = (
    "objective",
    "retain_loss",
    "forget_coeff",
    "retain_coeff",
    "tau",
    "smooth_layers",
    "beta",
    "loss_settings",
    "keep_speaking",
    "own_words",
    "teacher",
    "orthogonal",
    "retain_dose",
    "forget_dose",
    "retain_temperature",
    "keep_off",
    "settle_at",
)
_DETAILS = ("beta", "keep_speaking", "own_words", "retain_dose", "forget_dose", "retain_temperature", "keep_off")
_LORA = ("rank", "alpha", "dropout", "target_modules", "adapter_layers")


@dataclass
class RunRecord:
    """Everything about a run that its manifest tells; filled in as the run goes on."""

    config: ForgetConfig
    request: ForgetRequest
    base: LoadedBase
    layers: list[int] | None
    on_top_of: list[StackedOn] = field(default_factory=list)
    continued: str | None = None  # the fingerprint of the adapter whose weights this one began with
    fingerprint: str = ""
    request_hash: str = ""  # keyed: see asu_lora.adapters.request_key
    retain_choice: dict[str, Any] = field(default_factory=dict)  # of a pool; its hashes are keyed when it is stored
    tau: TauChoice | None = None
    counts: dict[str, int] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    forgetting_curve: list[dict[str, float]] = field(default_factory=list)  # by weight, where it was measured
    own_inputs: dict[str, torch.Tensor] = field(default_factory=dict)  # see asu_lora.adapters.own_inputs
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    peak_memory: int = 0

    def count(self, sets: Mapping[str, TrainingSet]) -> None:
        """Count rows, answer tokens and cut answers."""
        for name, each in sets.items():
            items = each.rows.views.get("answer", [])[: len(each)]
            self.counts[f"{name}_tokens"] = sum(len(item.answer_ids) for item in items)
            self.counts[f"{name}_cut"] = sum(item.cut for item in items)

    def key_hashes(self, keyed: Callable[[str], str]) -> None:
        """Put the hashes of the request, and of chosen rows, under the store's secret: rows can be guessed."""
        self.request_hash = keyed(self.request.fingerprint())
        if self.retain_choice:
            self.retain_choice["hashes"] = [keyed(each) for each in self.retain_choice["hashes"]]

    def count_parameters(self, student: PeftModel) -> None:
        """Count the adapter's parameters and the base's: one base, however many roles it plays."""
        self.counts["adapter_parameters"], everything = student.get_nb_trainable_parameters()
        beneath = sum(p.numel() for name, p in student.named_parameters() if "lora_" in name and not p.requires_grad)
        self.counts["base_parameters"] = everything - self.counts["adapter_parameters"] - beneath

    def own_settings(self) -> dict[str, Any]:
        """``loss_settings``: the numbers of the losses' own, by set, where they have any."""
        config = self.config
        own = own_settings(config.objective, config.retain_loss, config.loss_settings)
        return {"loss_settings": {name: each for name, each in own.items() if each}} if any(own.values()) else {}

    def add_training(self, closing: Mapping[str, Any]) -> None:
        """Add a phase's steps, seconds and mean loss to those so far."""
        if not self.training:
            self.training = dict(closing)
            return
        steps, so_far = closing["steps"], self.training["steps"]
        loss = (self.training["train_loss"] * so_far + closing["train_loss"] * steps) / max(so_far + steps, 1)
        self.training |= {
            "steps": so_far + steps,
            "train_loss": loss,
            "train_seconds": self.training["train_seconds"] + closing["train_seconds"],
        }

    def manifest(self, name: str, lora: dict) -> Manifest:
        """The manifest of this run's adapter."""
        settings, model_config = asdict(self.config), text_config(self.base.model)
        training = {k: v for k, v in settings.items() if k not in _METHOD + _LORA}
        training |= self.training | {
            "compute_dtype": str(self.base.compute_dtype).removeprefix("torch."),
            "device": self.base.device.type,
        }
        return Manifest(
            name=name,
            base=BaseRecord(
                id=self.base.source.name,
                revision=self.base.source.revision,
                fingerprint=self.fingerprint,
                precision=self.base.precision,
                quantization=self.base.quantization,
                hidden_size=model_config.hidden_size,
                num_layers=model_config.num_hidden_layers,
            ),
            method=MethodRecord(
                objective=self.config.objective,
                retain_loss=self.config.retain_loss,
                forget_coeff=self.config.forget_coeff,
                retain_coeff=self.config.retain_coeff,
                tau=self.tau.tau if self.tau else None,
                tau_chosen_by=("auto" if self.config.tau == "auto" else "user") if self.tau else None,
                tau_curve=[asdict(point) for point in self.tau.curve] or None if self.tau else None,
                smooth_layers=self.layers,
                details={name: getattr(self.config, name) for name in _DETAILS}
                | self.own_settings()
                | ({"kl": EVERY_POSITION} if self.config.retain_loss == "kl" else {})
                | ({"tau_reason": self.tau.reason} if self.tau else {})
                | ({"teacher": self.config.teacher, "orthogonal": self.config.orthogonal} if self.on_top_of else {})
                | ({"settle_at": self.config.settle_at} if self.config.settle_at else {})
                | ({"forgetting_curve": self.forgetting_curve} if self.forgetting_curve else {})
                | ({"continued_from": self.continued} if self.continued else {})
                | ({"retain_choice": self.retain_choice} if self.retain_choice else {}),
            ),
            lora=lora,
            training=training,
            request=RequestRecord(
                fingerprint=self.request_hash,
                forget_rows=len(self.request.forget),
                forget_tokens=self.counts.get("forget_tokens"),
                retain_rows=len(self.request.retain),
                retain_tokens=self.counts.get("retain_tokens"),
                skipped_rows=0,
                retain_source=self.request.retain_source,
                cut_rows=self.counts.get("forget_cut", 0) + self.counts.get("retain_cut", 0),
                counts={"paraphrases": self.request.paraphrases.count} if self.request.paraphrases else {},
            ),
            figures=FiguresRecord(before=dict(self.before), after=dict(self.after)),
            on_top_of=self.on_top_of,
            versions=library_versions(),
            wall_time_s=round(self.seconds, 1),
            peak_memory_bytes=self.peak_memory,
        )


def write_adapter(student: PeftModel, folder: Path, name: str, record: RunRecord) -> Manifest:
    """Write the PEFT folder with its model card and manifest into an empty folder."""
    config = cast(LoraConfig, student.peft_config["default"])
    # the name the user typed, so that plain PEFT finds the base again; a local path stays a path
    config.base_model_name_or_path = record.base.source.name
    config.inference_mode = True
    save_adapter(student, folder)
    as_any_new_file(folder / WEIGHTS_NAME)
    if record.own_inputs:
        write_own_inputs(folder, record.own_inputs)
    named = config.target_modules or ()
    modules = named if isinstance(named, str) else sorted(named)
    lora = {
        "rank": config.r,
        "alpha": config.lora_alpha,
        "dropout": config.lora_dropout,
        "target_modules": modules,
        "layers": config.layers_to_transform,
        "parameters": record.counts.get("adapter_parameters"),
    }
    if without := left_out(student):
        lora["left_out"] = without
    manifest = record.manifest(name, lora)
    write_model_card(folder, manifest)
    return write_manifest(folder, manifest)
