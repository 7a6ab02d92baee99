"""What a run of the queue is asked to do."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asu_lora.config import ForgetConfig
from asu_lora.errors import SettingError
from asu_lora.requests.ledger.states import canonical
from asu_lora.requests.runner.audit_policy import AuditPolicy


@dataclass(frozen=True)
class RunSettings:
    """One run over the queue.

    Attributes:
        base: hub id, folder or ``smollm2-135m``.
        config: of every training.
        audit: audit each adapter once it is trained.
        re_audit: audit each again, under all adapters, after others were added or withdrawn.
        forget_text: destroy each text once its adapter is audited, after the second audits of the run.
        consolidate: combine the adapters of so many requests into one; 0 is never.
        most: stop after so many requests; None works until the queue is empty.
        launch: a launcher that each training runs under in several processes, ``accelerate launch ...``.
        policy: how it audits, and what may come of it.
    """

    base: str = "smollm2-135m"
    config: ForgetConfig = field(default_factory=ForgetConfig)
    audit: bool = True
    re_audit: bool = True
    forget_text: bool = False
    consolidate: int = 0
    most: int | None = None
    launch: str | None = None
    policy: AuditPolicy = field(default_factory=AuditPolicy)

    def __post_init__(self) -> None:
        if self.consolidate < 0 or self.consolidate == 1:
            raise SettingError(f"consolidate is {self.consolidate}; it must be 0, or at least 2 adapters.")
        if self.most is not None and self.most < 1:
            raise SettingError(f"most is {self.most}; it must be at least 1.")
        if self.launch is not None and self.audit:
            raise SettingError(
                "--launch trains in processes of its own; an audit would hold the base in this one: add --no-audit, "
                "and audit by a run without --launch."
            )
        policy = self.policy
        if not self.audit and (policy.certify or (policy.fail_over, policy.keep_at_least) != (None, None)):
            raise SettingError(
                "--fail-over, --keep-at-least and --certify speak of audits: leave them or --no-audit out."
            )

    @property
    def limit(self) -> float | None:
        """The most knowledge that an audit may bring back; None for no limit."""
        return self.policy.limit(self.forget_text)

    def identity(self) -> str:
        """The same for runs that would train alike, on a base of the same name: 16 hexadecimal digits."""
        told: dict[str, Any] = {"base": self.base, "config": self.config.identity()}
        return hashlib.sha256(canonical(told).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Places:
    """Where a runner finds everything: what a worker in another process is told. No secret is in it.

    Attributes:
        store: the adapter store.
        address: of the ledger's database; None for the file in the store.
        key_file: with the key of the texts; None for the environment's, or the user's own.
        actor: who runs, for the history.
        results: an address that fsspec knows, where every finished adapter is published; None for the store alone.
    """

    store: Path
    address: str | None = None
    key_file: Path | None = None
    actor: str = "unknown"
    results: str | None = None
