"""``--control auto``: an adapter of the same size, steps and settings as the audited one, trained on kept rows.

It shows what an attack finds of the request in a model that was made to forget something else. It lies in the audit's
own folder and in no list of adapters. Training goes on where it was interrupted; a whole one serves later audits too.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from asu_lora.adapters.lora_folder import read_adapter
from asu_lora.adapters.manifest import Manifest, fingerprint_of
from asu_lora.adapters.store import AdapterStore
from asu_lora.audit.parts import FOLDER, keyed_name
from asu_lora.audit.request import AuditRequest
from asu_lora.audit.results import MadeControl
from asu_lora.audit.session import Inputs
from asu_lora.config import ForgetConfig
from asu_lora.data.examples import Example
from asu_lora.data.request import ForgetRequest, general_retain
from asu_lora.data.sampling import sample
from asu_lora.errors import SettingError
from asu_lora.forgetting.forget import forget
from asu_lora.models.adapter_stack import adapter_folders
from asu_lora.models.loading import LoadedBase
from asu_lora.progress import Progress, Relay
from asu_lora.training.phases import epochs_of
from asu_lora.version import __version__

NAME = "control"
_OF_ONE = "--control auto is made after one adapter"
# what its own run measures, and where that is told, doesn't shape an adapter
_ALONE: dict[str, Any] = {"eval_rows": 0, "report_to": "none", "stop_early": False}


@dataclass(frozen=True)
class Plan:
    """What a control is trained on, and how.

    Attributes:
        place: the folder that is the control's alone.
        rows: what it forgets, and what it keeps.
    """

    place: Path
    rows: ForgetRequest
    config: ForgetConfig
    kept: bool


def with_control(
    request: AuditRequest, inputs: Inputs, progress: Progress, loaded: LoadedBase | None = None
) -> tuple[AuditRequest, MadeControl]:
    """The request with a control that was trained for it, or had been.

    Args:
        loaded: the base, where it is in memory; it is a plain base again afterwards.

    Raises:
        SettingError: nothing tells how the audited adapter was trained, or there are no other rows.
        AsuLoraError: as forgetting does.
    """
    plan = _plan(request, inputs)
    store = AdapterStore(plan.place)
    if NAME not in store.names():
        progress.note(f"Training a control on {len(plan.rows.forget)} other rows, as the audited adapter was.")
        base = loaded or request.base
        forget(plan.rows, base, plan.config, name=NAME, store=store, resume=True, progress=_OfControl(progress))
    with suppress(OSError):
        os.utime(plan.place)  # in use: what nobody uses is dropped
    manifest = store.get(NAME).manifest
    assert manifest is not None  # forget has written it
    made = MadeControl(
        rows=manifest.request.forget_rows,
        rows_from="kept" if plan.kept else "general",
        steps=int(manifest.training["steps"]),
        rank=int(manifest.lora["rank"]),
    )
    return replace(request, control=plan.place / NAME), made


def _plan(request: AuditRequest, inputs: Inputs) -> Plan:
    folders = adapter_folders(request.adapters, request.store, fit=True)
    if len(folders) != 1:
        raise SettingError(f"{_OF_ONE}, not after {len(folders)}: name a control of your own.")
    [(folder, _)] = folders
    manifest = read_adapter(folder).manifest
    if manifest is None or not manifest.training.get("steps") or manifest.method.contents() or manifest.on_top_of:
        raise SettingError(
            f"{_OF_ONE} that was trained alone by 'asu-lora forget', and {folder.name} is none, or came without a "
            "manifest that tells its settings: name a control of your own."
        )
    others = inputs.retain if inputs.retain_given else general_retain(inputs.forget)
    if len(others) < 2:
        raise SettingError(
            "--control auto needs two kept rows or more, one to forget and one to keep: add to --retain."
        )
    chosen = sample(others, min(manifest.request.forget_rows, len(others) // 2))
    rows = ForgetRequest(tuple(chosen), tuple(_rest(others, chosen)), manifest.request.retain_source or "rows", NAME)
    config = config_of(manifest, len(chosen))
    config = replace(config, device=request.device, trust_remote_code=request.trust_remote_code, **_ALONE)
    store = AdapterStore(request.store)
    identity = [__version__, fingerprint_of(folder), rows.fingerprint(), repr(config)]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return Plan(store.root / FOLDER / f"{NAME}-{keyed_name(store.keyed(digest))}", rows, config, inputs.retain_given)


def _rest(rows: list[Example], chosen: list[Example]) -> list[Example]:
    taken = {example.key() for example in chosen}
    return [example for example in rows if example.key() not in taken]


def config_of(manifest: Manifest, rows: int) -> ForgetConfig:
    """The settings that a manifest tells, with epochs for as many steps on so many rows.

    Raises:
        SettingError: a setting of another version that this one refuses.
    """
    known = {field.name for field in fields(ForgetConfig)}
    method, lora = manifest.method, manifest.lora
    told: dict[str, Any] = {**manifest.training, **method.details}
    told |= {
        name: getattr(method, name) for name in ("objective", "retain_loss", "forget_coeff", "retain_coeff", "tau")
    }
    told |= {"loss_settings": _own_numbers(method.details.get("loss_settings") or {})}
    told |= {name: lora.get(name) for name in ("rank", "alpha", "dropout")}
    modules = lora.get("target_modules")
    told["target_modules"] = modules if isinstance(modules, str) else ",".join(modules or ())
    told |= {"smooth_layers": _layers(method.smooth_layers), "adapter_layers": _layers(lora.get("layers"))}
    config = ForgetConfig(**{name: value for name, value in told.items() if name in known and value not in (None, "")})
    an_epoch = math.ceil(math.ceil(rows / config.batch_size) / config.grad_accum)
    return replace(config, epochs=epochs_of(manifest.training["steps"], an_epoch))


def _layers(layers: list[int] | None) -> str:
    return ",".join(map(str, layers)) if layers else "all"


def _own_numbers(by_set: Mapping[str, Mapping[str, float]]) -> str:
    """``NAME=NUMBER,...`` of all losses, as the setting is typed."""
    return ",".join(f"{name}={value:g}" for own in by_set.values() for name, value in own.items())


class _OfControl(Relay):
    """Says of which training it is; the audit's progress stays open, since that goes on afterwards."""

    def stage(self, name: str, total: int | None = None) -> None:
        super().stage(f"Control: {name}", total)

    def note(self, text: str) -> None:
        super().note(f"Control: {text}")
