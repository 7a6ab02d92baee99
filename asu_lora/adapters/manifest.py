"""What is recorded beside an adapter: how it was made, on what, from how much, and with what result.

The request's text is personal data, and a manifest travels with the adapter. So no field here is a place for
a question or an answer: requests are counts and a fingerprint, figures and the tau curve are numbers only,
and unknown fields are refused.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from asu_lora.errors import AdapterError
from asu_lora.files import adapter_files, read_json, sha256_file, write_atomic
from asu_lora.version import __version__

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
WEIGHTS_NAME = "adapter_model.safetensors"
CONFIG_NAME = "adapter_config.json"
CARD_NAME = "README.md"
EVERY_POSITION = "every position"  # what the retain loss kl covers; without this detail, kl-answers is meant

Number = bool | int | float | None
Figures = dict[str, Number | dict[str, Number]]


def _utc(value: datetime | str) -> str:
    if not isinstance(value, datetime | str):
        raise ValueError("it is no date")
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value.replace("Z", "+00:00"))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except OverflowError as error:
        raise ValueError("it is no date of this calendar") from error


def utc_now() -> str:
    """The time now, as it stands in a manifest: ``2026-01-31T23:59:59Z``."""
    return _utc(datetime.now(UTC))


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class BaseRecord(_Record):
    """The base the adapter belongs to; ``fingerprint`` identifies its weights, whatever they are called."""

    id: str
    revision: str | None = None
    fingerprint: str
    precision: str
    quantization: dict[str, Any] | None = None
    hidden_size: int | None = None
    num_layers: int | None = None


class StackedOn(_Record):
    """Another adapter at a weight: active and frozen while this one was trained, or inside this one."""

    name: str
    fingerprint: str
    weight: float = 1.0


class MethodRecord(_Record):
    """How forgetting was asked for: objective, coefficients, tau and how it was chosen."""

    objective: str
    retain_loss: str | None = None
    forget_coeff: float | None = None
    retain_coeff: float | None = None
    tau: float | None = None
    tau_chosen_by: str | None = Field(default=None, description='"user" or "auto"')
    tau_curve: list[dict[str, Number]] | None = Field(default=None, description="the figures auto chose from")
    smooth_layers: list[int] | None = Field(default=None, description="None: all layers")
    details: dict[str, Any] = Field(default_factory=dict, description="settings of this objective only")

    @field_validator("details")
    @classmethod
    def _check_sources(cls, details: dict[str, Any]) -> dict[str, Any]:
        for key in ("sources", "contents"):
            TypeAdapter(list[StackedOn]).validate_python(details.get(key) or [])
        return details

    def contents(self) -> "list[StackedOn]":
        """The adapters that a combined one is the sum of, those inside its sources too, with their weights in it."""
        listed = self.details.get("contents") or self.details.get("sources") or []
        return TypeAdapter(list[StackedOn]).validate_python(listed)

    @model_validator(mode="after")
    def _name_the_kl(self) -> Self:
        """Earlier versions called the divergence in the answers ``kl``; now that is the one at every position."""
        if self.retain_loss == "kl" and self.details.get("kl") != EVERY_POSITION:
            object.__setattr__(self, "retain_loss", "kl-answers")
        return self


class RequestRecord(_Record):
    """The request by fingerprint and counts, never by its text."""

    fingerprint: str
    forget_rows: int
    forget_tokens: int | None = Field(default=None, description="answer tokens that carry loss")
    retain_rows: int = 0
    retain_tokens: int | None = None
    retain_source: str | None = Field(default=None, description="where retain rows came from: a kind, not a text")
    skipped_rows: int = Field(default=0, description="rows whose answer tokenised to nothing")
    cut_rows: int = Field(default=0, description="rows cut off by the length limit")
    counts: dict[str, int] = Field(default_factory=dict, description="any other counts")


class FiguresRecord(_Record):
    """Measured before and after, by name: ``forget_probability``, ``retain_rouge``, ... Numbers only."""

    before: Figures = Field(default_factory=dict)
    after: Figures = Field(default_factory=dict)


class Manifest(_Record):
    """``manifest.json``: everything known about an adapter but its weights."""

    format_version: int = FORMAT_VERSION
    name: str
    created: Annotated[str, BeforeValidator(_utc)] = Field(default_factory=utc_now)
    program_version: str = __version__
    base: BaseRecord
    method: MethodRecord
    lora: dict[str, Any] = Field(default_factory=dict, description="rank, alpha, target_modules, ...")
    training: dict[str, Any] = Field(default_factory=dict, description="lr, epochs, batch size, seed, ...")
    request: RequestRecord
    figures: FiguresRecord = Field(default_factory=FiguresRecord)
    on_top_of: list[StackedOn] = Field(default_factory=list)
    versions: dict[str, str] = Field(default_factory=dict, description="of the libraries used")
    wall_time_s: float | None = None
    peak_memory_bytes: int | None = None
    files: dict[str, str] = Field(default_factory=dict, description="sha256 of every other file")

    @property
    def fingerprint(self) -> str | None:
        """The adapter's fingerprint as recorded: the sha256 of its weights file."""
        return self.files.get(WEIGHTS_NAME)

    def to_json(self) -> str:
        # Infinities and NaN (a figure that could not be measured) become null: JSON has no word for them.
        return json.dumps(json.loads(self.model_dump_json()), indent=2, ensure_ascii=False) + "\n"


def fingerprint_of(folder: Path) -> str:
    """An adapter's fingerprint: the sha256 of its weights as they lie on the disk.

    Raises:
        AdapterError: there is no weights file.
    """
    path = Path(folder) / WEIGHTS_NAME
    try:
        return sha256_file(path)
    except OSError as error:
        raise AdapterError(f"{path} can't be read: {error.strerror}.") from error


def checksums(folder: Path) -> dict[str, str]:
    """The sha256 of every file in the folder but the manifest."""
    return {name: sha256_file(path) for name, path in adapter_files(Path(folder)) if name != MANIFEST_NAME}


def has_manifest(folder: Path) -> bool:
    return (Path(folder) / MANIFEST_NAME).is_file()


def read_manifest(folder: str | Path) -> Manifest:
    """Read and check ``manifest.json`` of an adapter folder.

    Raises:
        AdapterError: it is missing, is no manifest, or was written by a newer program.
    """
    path = Path(folder) / MANIFEST_NAME
    try:
        content = read_json(path)
    except FileNotFoundError as error:
        raise AdapterError(f"{folder} has no {MANIFEST_NAME}.") from error
    except OSError as error:
        raise AdapterError(f"{MANIFEST_NAME} can't be read: {error.strerror}.") from error
    except ValueError as error:
        raise AdapterError(f"{MANIFEST_NAME} is not JSON: {error}.") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise AdapterError(
            f"{MANIFEST_NAME} has format version {version}, and this asu-lora reads up to "
            f"{FORMAT_VERSION}: upgrade asu-lora."
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise AdapterError(f"{MANIFEST_NAME} is not a manifest: {where}: {first['msg']}.") from error


def write_manifest(folder: str | Path, manifest: Manifest) -> Manifest:
    """Write ``manifest.json``, with the sha256 of every other file in the folder; return what was written.

    Call it last, when all other files are in place. To change the manifest of an adapter that is already
    stored, use :func:`asu_lora.adapters.model_card.restate`: computing the checksums anew would bless a file
    that has been damaged since.
    """
    folder = Path(folder)
    manifest = manifest.model_copy(update={"files": checksums(folder)})
    write_atomic(folder / MANIFEST_NAME, manifest.to_json())
    return manifest
