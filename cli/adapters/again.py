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

# what a manifest says as it was typed; the others have names of their own below, or change memory and time alone
SETTINGS = frozenset(
    "epochs lr batch_size grad_accum retain_per_forget retain_dose forget_dose retain_temperature keep_off settle_at "
    "own_words beta scheduler warmup weight_decay max_grad_norm dropout rank alpha seed max_length keep_speaking "
    "phrasings openings attacker_lr settle_rounded stop_early system_prompt optimizer precision "
    "trust_remote_code".split()
)
ON_TOP = frozenset({"teacher", "orthogonal"})  # go with --on-top-of
USUAL = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]  # 'all-linear' of most bases


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
    words += [*_retain(manifest), "--name", f"{adapter.name}-again", "--objective", method.objective]
    words += ["--retain-loss", method.retain_loss or "none"]
    for name, weight in (("--forget-coeff", method.forget_coeff), ("--retain-coeff", method.retain_coeff)):
        words += [] if weight is None else [name, _typed(weight)]
    if method.tau is not None and method.tau_chosen_by == "user":
        words += ["--tau", _typed(method.tau)]
    words += [*_places(manifest), *_settings(manifest, alone=not below)]
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


def _retain(manifest: "Manifest") -> list[str]:
    """What stands for the rows that were kept, as FILE stands for the request; nothing for the built-in ones."""
    from asu_lora.data.request import CHOSEN, GENERAL

    if (manifest.method.retain_loss or "none") == "none" or manifest.request.retain_source in (None, GENERAL):
        return []
    chosen = manifest.request.retain_source == CHOSEN
    return ["--retain", "auto", "--retain-pool", "POOL"] if chosen else ["--retain", "RETAIN"]


def _places(manifest: "Manifest") -> list[str]:
    """Smoothed layers, and layers and modules with an adapter, where they are not what the command takes by itself."""
    from asu_lora.config import ForgetConfig
    from asu_lora.layer_ranges import parse_layers

    usual, words, number = ForgetConfig(), [], manifest.base.num_layers
    said: list[tuple[str, str, list[int] | None]] = []
    if manifest.method.tau is not None:
        said.append(("--smooth-layers", usual.smooth_layers, manifest.method.smooth_layers))
    if "layers" in manifest.lora:
        said.append(("--adapter-layers", usual.adapter_layers, manifest.lora["layers"]))
    for name, default, layers in said:
        if number and layers != parse_layers(default, number):
            words += [name, "all" if layers is None else ",".join(map(str, layers))]
    modules = manifest.lora.get("target_modules")
    if isinstance(modules, list) and modules and sorted(modules) != USUAL:
        words += ["--target-modules", ",".join(modules)]
    return words


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
        known = field.name in SETTINGS or (field.name in ON_TOP and not alone)
        if known and value is not None and value != meant.get(field.name, field.default):
            flag = field.name.replace("_", "-")
            words += [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", _typed(value)]
    return words + _of_the_loss(manifest)


def _of_the_loss(manifest: "Manifest") -> list[str]:
    """The loss's own numbers where they are not its paper's."""
    method = manifest.method
    if not (made_with := method.details.get("loss_settings")):
        return []
    from asu_lora.losses import own_settings
    from asu_lora.losses.loss_settings import settings_text

    papers = own_settings(method.objective, method.retain_loss or "none", None)
    other = {
        name: number
        for which, numbers in made_with.items()
        for name, number in numbers.items()
        if number != papers.get(which, {}).get(name)
    }
    return ["--loss-settings", settings_text(other)] if other else []


def _typed(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)
