"""The certificates of a store, each with what is wrong with it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from asu_lora.adapters.store import AdapterStore
from asu_lora.audit.certificate.archive import archive_entries
from asu_lora.audit.certificate.looked import Looked
from asu_lora.audit.certificate.record import AdapterIdentity, Certificate
from asu_lora.audit.certificate.signed import SignedCertificate, read_signed
from asu_lora.audit.certificate.signing_key import public_key_of_store
from asu_lora.audit.certificate.wording import attack_name, beside
from asu_lora.errors import AsuLoraError, CertificateError


@dataclass(frozen=True)
class KnownCertificate:
    """A certificate of the archive.

    Attributes:
        own_key: it is signed with the store's own key.
        newest: no later one is of the same model and request.
        ended: a later audit is not passed, so that it was taken out of the adapter's folder.
        changed: the adapter's files are not those that were certified.
    """

    certificate: Certificate
    own_key: bool
    newest: bool
    ended: bool = False
    changed: bool = False

    @property
    def state(self) -> str:
        """In a word or two: "valid", "expired", "replaced", "ended", "of other files", "signed with another key"."""
        if self.certificate.expired():
            return "expired"
        if not self.newest:
            return "replaced"
        if self.ended:
            return "ended"
        if self.changed:
            return "of other files"
        return "valid" if self.own_key else "signed with another key"

    @property
    def worst(self) -> float | None:
        """What the strongest attack on the knowledge brought back; None where none could tell."""
        return self.certificate.tried.worst()

    @property
    def strongest(self) -> str:
        """The name of that attack; empty where no attack could tell."""
        strongest = self.certificate.tried.strongest()
        return attack_name(strongest) if strongest else ""

    @property
    def beside(self) -> list[str]:
        """Sentences on what was told of the rows without bringing a fact back: membership, traces."""
        return beside(self.certificate.tried.attacks)


def known_certificates(
    store: AdapterStore, progress: Callable[[int], None] = lambda count: None
) -> tuple[list[KnownCertificate], list[str]]:
    """Every certificate of the archive, oldest first, and a sentence on each file that is none."""
    own, found, problems = public_key_of_store(store), [], []
    for _, _, path in archive_entries(store):
        try:
            found.append(_read(path, path.stat().st_mtime_ns))
        except (CertificateError, OSError) as error:
            problems.append(str(error))
        progress(1)
    last = {_of(signed): signed.certificate.serial for signed in found}
    return [
        KnownCertificate(signed.certificate, signed.public_key == own, last[_of(signed)] == signed.certificate.serial)
        for signed in found
    ], problems


def is_changed(store: AdapterStore, folder: Path, certified: AdapterIdentity) -> bool:
    """Whether an adapter's files differ from those that were certified; each state of them is read once."""
    try:
        state = tuple((stat.st_size, stat.st_mtime_ns) for name in certified.files for stat in [(folder / name).stat()])
    except OSError:
        return True
    return _differ(store.root, folder, tuple(certified.files.items()), state)


@lru_cache(maxsize=10_000)
def _differ(root: Path, folder: Path, files: tuple[tuple[str, str], ...], state: tuple[tuple[int, int], ...]) -> bool:
    try:
        return Looked(root).problem(folder, dict(files)) is not None
    except AsuLoraError:
        return True


def _of(signed: SignedCertificate) -> tuple[str, str | None]:
    """What a later certificate replaces: one of the same model and the same request."""
    return signed.certificate.done.subject(), signed.certificate.asked.request


@lru_cache(maxsize=10_000)
def _read(path: Path, changed: int) -> SignedCertificate:
    """A page that is served again and again reads each certificate once."""
    return read_signed(path)
