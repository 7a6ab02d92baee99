"""What a certificate says: asked, done, tried, and its limits. Hashes and numbers, never a word of the request."""

import re
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from asu_lora.audit.certificate.canonical import canonical
from asu_lora.audit.results import AuditResult, Setting
from asu_lora.version import __version__

SCHEMA: Final = "asu-lora/audit-certificate"
SCHEMA_VERSION: Final = 1
CERTIFICATE_NAME = "certificate.json"
PAGE_NAME = "certificate.html"

ADAPTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ODD = re.compile(r"[\x00-\x1f\x7f\\:]")


def _plain_file(name: str) -> str:
    """A name below a folder: relative, posix, no way up. What a forger writes here is later opened."""
    path = PurePosixPath(name)
    if not path.parts or len(name) > 300 or _ODD.search(name) or path.is_absolute() or path.as_posix() != name:
        raise ValueError("it names a file outside its folder")
    if any(part in ("..", ".") or part.startswith("~") for part in path.parts):
        raise ValueError("it names a file outside its folder")
    return name


def _adapter_name(name: str) -> str:
    if not ADAPTER_NAME.fullmatch(name):
        raise ValueError("it is no adapter's name")
    return name


def _moment(text: str) -> str:
    datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
    return text


def moment(text: str) -> datetime:
    """A time as certificates write it (``2026-01-31T23:59:59Z``), as a datetime of UTC."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, AfterValidator(_plain_file)]
AdapterName = Annotated[str, AfterValidator(_adapter_name)]
Moment = Annotated[str, AfterValidator(_moment)]
Line = Annotated[str, Field(max_length=2000)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Asked(_Part):
    """The request: a keyed hash, counts, and a commitment a row that the holder of text and salt can open."""

    request: str | None = Field(default=None, description="keyed hash of the request, as in the manifest")
    forget_rows: int = Field(ge=0)
    forget_tokens: int | None = None
    retain_rows: int = 0
    retain_source: str | None = None
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None
    commitments: list[Sha256] = Field(default_factory=list, description="of the forget rows, in order")


class AdapterIdentity(_Part):
    """One adapter as it was audited: its weights by hash, and how it was made as its manifest tells."""

    name: AdapterName
    weight: float = 1.0
    fingerprint: Sha256
    files: dict[FileName, Sha256] = Field(description="what decides how it answers; not its card and manifest")
    created: str | None = None
    program_version: str | None = None
    objective: str | None = None
    retain_loss: str | None = None
    tau: float | None = None
    tau_chosen_by: str | None = None
    seed: int | None = None
    settings: dict[str, Setting] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)


class BaseIdentity(_Part):
    """The base that the adapter belongs to."""

    id: str
    revision: str | None = None
    fingerprint: str
    precision: str


class Done(_Part):
    """What was done about the request."""

    audited: Literal["adapter", "stack", "merged", "base"]
    adapters: list[AdapterIdentity] = Field(default_factory=list)
    base: BaseIdentity | None = None
    merged: dict[FileName, Sha256] | None = Field(default=None, description="files of the merged folder")

    def subject(self) -> str:
        """What a certificate is of, as one hash: the same adapters at the same weights, the same merged files."""
        import hashlib

        stack = sorted([adapter.fingerprint, adapter.weight] for adapter in self.adapters)
        base = self.base.fingerprint if self.base and self.audited == "base" else None
        return hashlib.sha256(canonical({"adapters": stack, "merged": self.merged, "base": base})).hexdigest()


class EarlierEffect(_Part):
    """A figure of an earlier request, before and after this one was done."""

    name: AdapterName
    figure: str
    before: float
    after: float


class Limit(_Part):
    """One thing that the certificate does not prove."""

    about: str
    text: Line


class Certificate(_Part):
    """One certificate. ``serial`` grows with every one that a store issues."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_name: Literal["asu-lora/audit-certificate"] = Field(default=SCHEMA, alias="schema")
    schema_version: Literal[1] = SCHEMA_VERSION
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    serial: int = Field(ge=1)
    issued: Moment
    expires: Moment
    issuer: Annotated[str, Field(max_length=200)] | None = None
    program_version: str = __version__
    asked: Asked
    done: Done
    tried: AuditResult
    precisions: list[str]
    languages: list[str]
    earlier: list[EarlierEffect] = Field(default_factory=list)
    limits: list[Limit]

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> Self:
        if moment(self.expires) <= moment(self.issued):
            raise ValueError("it expires before it is issued")
        return self

    @property
    def name(self) -> str:
        """What it is about, for people: the audited adapter's name, else the kind of model."""
        return self.done.adapters[-1].name if self.done.adapters else f"the {self.done.audited} model"

    def expired(self, now: datetime | None = None) -> bool:
        """Whether its date has passed."""
        return moment(self.expires) <= (now or datetime.now(UTC))
