"""Is an adapter whole, and what it says it is? Everything that can be checked without its base, or torch.

Pickles are found by their names and never opened: opening one runs whatever code it carries.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asu_lora.adapters.adapter_config import read_adapter_config
from asu_lora.adapters.lora_folder import match_pattern
from asu_lora.adapters.manifest import MANIFEST_NAME, WEIGHTS_NAME, Manifest, has_manifest, read_manifest
from asu_lora.adapters.tensor_names import canonical, module_of
from asu_lora.errors import AdapterError
from asu_lora.files import adapter_files, sha256_file
from asu_lora.safetensors_header import TensorInfo, checked_header, not_finite

if TYPE_CHECKING:
    from asu_lora.adapters.store import AdapterStore

PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill"}

# (what ends an A's name, what ends its B's)
_PAIRS = ((".lora_A.weight", ".lora_B.weight"), (".lora_embedding_A", ".lora_embedding_B"))


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; ``problem`` says what is wrong, ``note`` what else there is to know."""

    name: str
    problem: str | None = None
    note: str | None = None

    @property
    def ok(self) -> bool:
        return self.problem is None


@dataclass(frozen=True)
class VerifyReport:
    """All checks of one adapter."""

    folder: Path
    checks: list[Check] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    @property
    def problems(self) -> list[str]:
        return [check.problem for check in self.checks if check.problem]

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return {
            "adapter": self.folder.name,
            "ok": self.ok,
            "checks": [
                {"check": check.name, "ok": check.ok, "problem": check.problem, "note": check.note}
                for check in self.checks
            ],
        }

    def raise_if_bad(self) -> None:
        """Raises:
        AdapterError: with the first problem, if there is one.
        """
        if not self.ok:
            raise AdapterError(f"The adapter {self.folder.name} is broken: {self.problems[0]}")


def pickles_in(folder: Path) -> list[str]:
    """The names of the files in a folder that are pickles by their suffix."""
    return [name for name, path in adapter_files(folder) if path.suffix.lower() in PICKLE_SUFFIXES]


def verify_adapter(folder: str | Path, base_fingerprint: str | Sequence[str] | None = None) -> VerifyReport:
    """Check an adapter folder: files against the manifest, config, weights, numbers, base.

    Args:
        folder: a PEFT LoRA folder, with a manifest or without.
        base_fingerprint: of the base it shall be used with, or several that it has had; None leaves that check out.

    Returns:
        the checks; none is made on weights that come as a pickle or can't be read.
    """
    folder = Path(folder)
    report = VerifyReport(folder)
    pickles = pickles_in(folder)
    _add(report, "no pickles", _pickle_problem(pickles))
    manifest = _manifest(report, folder)
    config, problem = _tried(read_adapter_config, folder)
    _add(report, "config", problem)
    tensors, problem = _tried(checked_header, folder / WEIGHTS_NAME)
    _add(report, "weights readable", problem)
    if tensors is not None:
        if config is not None:
            _add(report, "shapes", _shape_problem(tensors, config))
        _add(report, "finite numbers", _number_problem(list(not_finite(folder / WEIGHTS_NAME, tensors))))
    if base_fingerprint is not None:
        known = (base_fingerprint,) if isinstance(base_fingerprint, str) else tuple(base_fingerprint)
        _add(report, "base", *_base(manifest, known))
    return report


def verify_stored(store: "AdapterStore", name: str, base_fingerprint: str | Sequence[str] | None) -> VerifyReport:
    """See :meth:`asu_lora.adapters.store.AdapterStore.verify`.

    Raises:
        StoreError: there is none of this name.
    """
    try:
        with store.snapshot(name) as snapshot:
            report = verify_adapter(snapshot, base_fingerprint)
    except AdapterError as error:  # a link that leads out of the folder: it is never followed
        report = VerifyReport(store.root / name, [Check("files", str(error))])
    return replace(report, folder=store.root / name)


def _number_problem(bad: list[str]) -> str | None:
    if not bad:
        return None
    more = f", and so do {len(bad) - 1} more tensors" if len(bad) > 1 else ""
    return f"{bad[0]} holds NaN or infinity{more}."


def _add(report: VerifyReport, name: str, problem: str | None = None, note: str | None = None) -> None:
    report.checks.append(Check(name, problem, note))


def _tried(function, argument):
    try:
        return function(argument), None
    except AdapterError as error:
        return None, str(error)


def _pickle_problem(pickles: list[str]) -> str | None:
    if not pickles:
        return None
    return (
        f"it holds {pickles[0]}, a pickle, which could run code and is never opened: "
        "delete it, or save the adapter as safetensors."
    )


def _manifest(report: VerifyReport, folder: Path) -> Manifest | None:
    if not has_manifest(folder):
        _add(report, "checksums", note=f"no {MANIFEST_NAME}: nothing to compare with")
        return None
    manifest, problem = _tried(read_manifest, folder)
    _add(report, "manifest", problem)
    if manifest is None:
        return None
    files = dict(adapter_files(folder))
    files.pop(MANIFEST_NAME, None)
    problems = [] if WEIGHTS_NAME in manifest.files else [f"{MANIFEST_NAME} records no {WEIGHTS_NAME}."]
    for name, recorded in manifest.files.items():
        if name not in files:
            problems.append(f"{name} is missing.")
        elif sha256_file(files[name]) != recorded:
            problems.append(f"{name} is not the file that was recorded: its sha256 differs.")
    unrecorded = sorted(files.keys() - manifest.files.keys())
    _add(
        report,
        "checksums",
        problems[0] if problems else None,
        f"not recorded: {', '.join(unrecorded)}" if unrecorded else None,
    )
    return manifest


def _shape_problem(tensors: dict[str, TensorInfo], config: dict[str, Any]) -> str | None:
    """A of shape (r, in, ...) and B of shape (out, r, ...) for each module, r as the config says."""
    ranks, seen = config.get("rank_pattern") or {}, 0
    for name, a in tensors.items():
        for end_a, end_b in _PAIRS:
            if name.endswith(end_b) and name.removesuffix(end_b) + end_a not in tensors:
                return f"{name} has no {end_a.split('.')[1]} beside it."
            if not name.endswith(end_a):
                continue
            seen += 1
            module = name.removesuffix(end_a)
            b = tensors.get(module + end_b)
            if b is None:
                return f"{name} has no {end_b.split('.')[1]} beside it."
            if len(a.shape) < 2 or len(b.shape) < 2 or a.shape[0] != b.shape[1]:
                return f"the shapes of {module} don't fit together: A is {list(a.shape)} and B is {list(b.shape)}."
            try:
                rank = ranks.get(match_pattern(ranks, module_of(canonical(name))) or "", config["r"])
            except AdapterError:
                return f"the rank_pattern {ranks!r} makes no sense."
            # Adapters of bare parameters stack one factor pair an expert along the rank.
            if a.shape[0] != rank and not (config.get("target_parameters") and a.shape[0] % rank == 0):
                return f"{module} has rank {a.shape[0]}, and the config says {rank}."
    return None if seen else "it holds no LoRA weights."


def _base(manifest: Manifest | None, known: tuple[str, ...]) -> tuple[str | None, str | None]:
    if manifest is None:
        return None, "no manifest: which weights it was trained on is not known"
    if manifest.base.fingerprint not in known:
        return (
            f"it belongs to {manifest.base.id} with the fingerprint {manifest.base.fingerprint[:16]}, "
            f"and the base has {known[0][:16]}: other weights, whatever their name."
        ), None
    return None, None
