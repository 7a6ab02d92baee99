"""Which model a certificate is of: adapters, base and merged files by their hashes, settings from the manifest."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asu_lora.adapters.manifest import (
    CARD_NAME,
    CONFIG_NAME,
    MANIFEST_NAME,
    WEIGHTS_NAME,
    Manifest,
    has_manifest,
    read_manifest,
)
from asu_lora.adapters.model_card import public_base_name
from asu_lora.adapters.sharing import config_as_shared
from asu_lora.adapters.stored_adapter import StoredAdapter
from asu_lora.adapters.verify import PICKLE_SUFFIXES
from asu_lora.audit.certificate.record import (
    ADAPTER_NAME,
    CERTIFICATE_NAME,
    PAGE_NAME,
    AdapterIdentity,
    BaseIdentity,
    Done,
)
from asu_lora.audit.results import APART_NAME, AUDIT_NAME, AuditResult
from asu_lora.errors import AdapterError, CertificateError
from asu_lora.files import adapter_files, refuse_link_outwards, sha256_file

# In an adapter's folder, but about it: a later audit or another name changes them.
_BESIDE = (CARD_NAME, MANIFEST_NAME, AUDIT_NAME, APART_NAME, CERTIFICATE_NAME, PAGE_NAME)
# Of a merged folder: what decides how it answers, code among it. Cards and certificates may change.
_TEXTS = {".json", ".jinja", ".model", ".txt", ".tiktoken", ".bpe", ".vocab", ".py"}
_MERGED_SUFFIXES = {".safetensors", ".gguf", *PICKLE_SUFFIXES, *_TEXTS}
REPORT_NAME = "merge_report.json"  # where somebody keeps what 'merge --json' told
_NOT_MERGED = {*_BESIDE, REPORT_NAME}


@dataclass(frozen=True)
class Audited:
    """The model that was attacked.

    Attributes:
        adapters: (adapter, weight) as they are stacked, the audited one last. Empty for a plain base.
        merged: the folder they were baked into, if that was attacked.
    """

    adapters: Sequence[tuple[StoredAdapter, float]] = ()
    merged: Path | None = None

    @property
    def home(self) -> Path | None:
        """The folder that the certificate is written into."""
        return self.merged or (self.adapters[-1][0].path if self.adapters else None)


def done(audited: Audited, result: AuditResult) -> Done:
    """What was done, by hashes taken now.

    Raises:
        CertificateError: a file can't be read, or is not the one that its manifest records.
        AdapterError: a file is a link that leads out of its folder.
    """
    top = audited.adapters[-1][0].manifest if audited.adapters else None
    return Done.model_validate(
        {
            "audited": result.audited,
            "adapters": [adapter_identity(adapter, weight) for adapter, weight in audited.adapters],
            "base": base_identity(top) if top else None,
            "merged": hash_files(audited.merged, merged_files(audited.merged)) if audited.merged else None,
        }
    )


def adapter_identity(adapter: StoredAdapter, weight: float = 1.0) -> AdapterIdentity:
    """One adapter: its files hashed, its making as its manifest tells. See :func:`done` for errors."""
    manifest = adapter.manifest
    if not ADAPTER_NAME.fullmatch(adapter.name):
        raise CertificateError(
            f"{adapter.name!r} can't stand on a certificate: rename the adapter to letters, digits, '.', '_' and '-' "
            f"with 'asu-lora adapters rename', and audit it anew."
        )
    files = hash_files(adapter.path, deciding_files(manifest))
    for name, figure in files.items():
        if manifest and manifest.files[name] != figure:
            raise CertificateError(
                f"{name} of the adapter {adapter.name} is not the file that was recorded: nothing was certified; "
                f"'asu-lora adapters verify {adapter.name}' says more."
            )
    if (shared := config_as_shared(adapter.path)) is not None:
        files[CONFIG_NAME] = sha256_text(shared)  # its base by name: so it is exported, and so it can be checked there
    return AdapterIdentity(
        name=adapter.name,
        weight=weight,
        fingerprint=files[WEIGHTS_NAME],
        files=files,
        **(_making(manifest) if manifest else {}),
    )


def deciding_files(manifest: Manifest | None) -> list[str]:
    """The files of an adapter that decide how it answers."""
    recorded = manifest.files if manifest else (CONFIG_NAME, WEIGHTS_NAME)
    return [name for name in recorded if name not in _BESIDE]


def adapter_hashes(folder: Path) -> dict[str, str]:
    """The sha256 of each file that decides how an adapter answers, as it lies there now.

    Raises:
        AdapterError: its manifest or a file can't be read.
    """
    return hashes_of(folder, deciding_files(read_manifest(folder) if has_manifest(folder) else None))


def hashes_of(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The sha256 of those files that are there, wherever links lead: what was loaded, whether or not it may be kept.

    Raises:
        AdapterError: a file can't be read.
    """
    try:
        return {name: sha256_file(folder / name) for name in sorted(names) if (folder / name).is_file()}
    except OSError as error:
        raise AdapterError(f"{folder} can't be read: {error.strerror}.") from error


def base_identity(manifest: Manifest) -> BaseIdentity:
    """The base as the manifest records it, under the name that may be told."""
    base = manifest.base
    return BaseIdentity(
        id=public_base_name(base.id), revision=base.revision, fingerprint=base.fingerprint, precision=base.precision
    )


def merged_files(folder: Path) -> list[str]:
    """The files of a merged folder that decide how it answers."""
    return [
        name
        for name, path in adapter_files(folder)
        if path.suffix.lower() in _MERGED_SUFFIXES and path.name not in _NOT_MERGED
    ]


def hash_files(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The sha256 of files below a folder; a link that leads out of it is refused.

    Raises:
        CertificateError: a file is missing or can't be read.
        AdapterError: a file is a link that leads out of the folder.
    """
    found = {}
    for name in sorted(names):
        path = folder / name
        refuse_link_outwards(folder, path)
        try:
            found[name] = sha256_file(path)
        except OSError as error:
            raise CertificateError(f"{name} in {folder} can't be read: {error.strerror}.") from error
    return found


def sha256_text(text: str) -> str:
    """The sha256 of a text as it is written into a file."""
    return hashlib.sha256(text.encode()).hexdigest()


def _making(manifest: Manifest) -> dict[str, Any]:
    method, training = manifest.method, manifest.training
    numbers = {**manifest.lora, **training, **method.details}
    settings = {name: value for name, value in numbers.items() if isinstance(value, bool | int | float | None)}
    settings |= {"forget_coeff": method.forget_coeff, "retain_coeff": method.retain_coeff}
    seed = settings.pop("seed", None)
    return {
        "created": manifest.created,
        "program_version": manifest.program_version,
        "objective": method.objective,
        "retain_loss": method.retain_loss,
        "tau": method.tau,
        "tau_chosen_by": method.tau_chosen_by,
        "seed": seed if isinstance(seed, int) else None,
        "settings": {name: value for name, value in sorted(settings.items()) if value is not None},
        "versions": manifest.versions,
    }
