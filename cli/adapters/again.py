"""What to type to make an adapter again, once adapters that it was trained on top of are gone."""

import shlex
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asu_lora.adapters.adapter_spec import weighted
from asu_lora.adapters.additive import adds_up
from asu_lora.errors import AdapterError

if TYPE_CHECKING:
    from asu_lora.adapters.manifest import Manifest
    from asu_lora.adapters.stored_adapter import StoredAdapter

# what a manifest says as it was typed; the others have names of their own below, or follow from the base
SETTINGS = frozenset(
    "epochs lr batch_size grad_accum retain_per_forget retain_dose forget_dose retain_temperature keep_off settle_at "
    "own_words beta scheduler warmup weight_decay max_grad_norm dropout rank alpha seed max_length".split()
)


def retrain_command(adapter: "StoredAdapter", without: Collection[str], store: Path) -> str:
    """The command, or nothing where a sum holds only adapters of ``without``.

    Raises:
        AdapterError: it has no manifest that would tell.
    """
    manifest = adapter.manifest
    if manifest is None:
        raise AdapterError(f"The adapter {adapter.name} has no manifest: how it was made isn't known.")
    if manifest.method.objective == "combined":
        return _of_sum(manifest, adapter.name, without, store)
    method, below = manifest.method, [each for each in manifest.on_top_of if each.name not in without]
    words = ["asu-lora", "forget", "FILE", "--base", manifest.base.id, "--store", str(store)]
    words += ["--name", f"{adapter.name}-again", "--objective", method.objective]
    words += ["--retain-loss", method.retain_loss or "none"]
    for name, weight in (("--forget-coeff", method.forget_coeff), ("--retain-coeff", method.retain_coeff)):
        words += [] if weight is None else [name, _typed(weight)]
    if method.tau is not None and method.tau_chosen_by == "user":
        words += ["--tau", _typed(method.tau)]
    words += _settings(manifest, alone=not below)
    for each in below:
        words += ["--on-top-of", weighted(each.name, each.weight)]
    return shlex.join(words)


def _of_sum(manifest: "Manifest", name: str, without: Collection[str], store: Path) -> str:
    details = manifest.method.details
    left = [source for source in details.get("sources") or () if source["name"] not in without]
    if not left:
        return ""
    parts = [weighted(source["name"], source["weight"]) for source in left]
    words = ["asu-lora", "adapters", "combine", *parts, "--no-fit", "--name", f"{name}-again"]
    words += ["--rank", str(rank)] if (rank := details.get("rank")) else []
    return shlex.join([*words, "--store", str(store)])


def _settings(manifest: "Manifest", alone: bool) -> list[str]:
    """The settings in which the adapter's training differs from what the command would take by itself."""
    from asu_lora.adding_up import unless_given
    from asu_lora.config import ForgetConfig

    own = adds_up(manifest)
    words = [] if own == alone or manifest.method.objective != ForgetConfig().objective else ["--no-adds-up"]
    given = {"objective": manifest.method.objective}
    meant = unless_given(given, adds_up=own)
    told: dict[str, Any] = {**manifest.lora, **manifest.training, **manifest.method.details}
    for field in fields(ForgetConfig):
        value = told.get(field.name)
        if field.name in SETTINGS and value is not None and value != meant.get(field.name, field.default):
            words += [f"--{field.name.replace('_', '-')}", _typed(value)]
    return words


def _typed(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)
