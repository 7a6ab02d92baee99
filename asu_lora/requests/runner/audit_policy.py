"""How a run audits its adapters, and how much of the knowledge may come back before one of them fails."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from asu_lora.audit.certificate.issue import Terms
from asu_lora.audit.gate import check_gate
from asu_lora.audit.settings import AuditSettings
from asu_lora.errors import SettingError

# A text can't be brought back: of what is told nothing else, it goes only where most of the knowledge is gone.
LIMIT_BEFORE_TEXT_GOES = 0.5


@dataclass(frozen=True)
class Certifying:
    """The terms of the certificates that a run issues.

    Attributes:
        key_file: the private ed25519 key, PEM; None for the store's own.
        issuer: as people shall read it.
        valid_days: from the end of the attacks until a certificate expires.

    Raises:
        SettingError: an issuer or a number of days that no certificate can have.
    """

    key_file: Path | None = None
    issuer: str | None = None
    valid_days: int = 180

    def __post_init__(self) -> None:
        Terms(self.valid_days, self.issuer)


@dataclass(frozen=True)
class AuditPolicy:
    """Settings of every audit of a run.

    Attributes:
        depth: ``quick``, ``standard`` or ``full``.
        fail_over: the most knowledge that may come back, a share from 0 up; a request over it fails. None for no limit.
        keep_at_least: the least share of its probability that what is kept must have under the audited adapters; a
            request under it fails. None for no limit.
        floor: a file of rows like the forgotten that the base never saw.
        floor_base: a model that never saw any of the requests, which is the better floor.
        certify: issue a certificate of each audit that is passed; None for none.
        re_audit_most: earlier requests that one run audits again, those first that wait longest; None for all.

    Raises:
        SettingError: a depth that there isn't, a limit out of its range, or fewer than one request.
    """

    depth: str = "quick"
    fail_over: float | None = None
    keep_at_least: float | None = None
    floor: str | None = None
    floor_base: str | None = None
    certify: Certifying | None = None
    re_audit_most: int | None = None

    def __post_init__(self) -> None:
        settings = AuditSettings(depth=self.depth)
        if self.fail_over is not None:
            if not 0 <= self.fail_over < math.inf:
                raise SettingError(f"fail_over is {self.fail_over}; it must be a share, 0 or more.")
            check_gate(settings)
        if self.keep_at_least is not None and not 0 <= self.keep_at_least <= 1:
            raise SettingError(f"keep_at_least is {self.keep_at_least}; it must be a share from 0 to 1.")
        if self.re_audit_most is not None and self.re_audit_most < 1:
            raise SettingError(f"re_audit_most is {self.re_audit_most}; it must be at least 1.")

    def limit(self, forget_text: bool) -> float | None:
        """The limit of a run; one that destroys texts always has one."""
        if self.fail_over is None and forget_text:
            return LIMIT_BEFORE_TEXT_GOES
        return self.fail_over

    def absolute(self) -> "AuditPolicy":
        """The same for a process that was started in another folder."""
        certify = self.certify
        if certify is not None and certify.key_file is not None:
            certify = replace(certify, key_file=certify.key_file.absolute())
        return replace(self, certify=certify, floor=_there(self.floor), floor_base=_there(self.floor_base))


def _there(path: str | None) -> str | None:
    """A path that is there, from the root; any other word, such as an id of the hub, as it is."""
    return str(Path(path).absolute()) if path and Path(path).exists() else path
