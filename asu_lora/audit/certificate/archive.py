"""The archive: every certificate that a store has issued, by its number, in ``.certificates/``.

It is how an older certificate is told from the newest, and where the curves of the store's page come from.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from asu_lora.adapters.store import AdapterStore
from asu_lora.audit.certificate.record import Certificate
from asu_lora.audit.certificate.signed import SignedCertificate, read_signed
from asu_lora.errors import CertificateError

ARCHIVE = ".certificates"
_ENTRY = re.compile(r"(\d{8})-([0-9a-f]{16})\.json")


def entry_name(certificate: Certificate) -> str:
    """What a certificate's file is called in the archive: its number and the model it is of."""
    return f"{certificate.serial:08d}-{certificate.done.subject()[:16]}.json"


def last_serial(store: AdapterStore) -> int:
    """The number of the newest certificate that the store has issued; 0 before the first."""
    return max((serial for serial, _, _ in archive_entries(store)), default=0)


def archive_entries(store: AdapterStore) -> Iterator[tuple[int, str, Path]]:
    """(serial, first 16 digits of the subject, file) of every certificate in the archive; none is opened."""
    folder = store.root / ARCHIVE
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if found := _ENTRY.fullmatch(path.name):
            yield int(found[1]), found[2], path


def newest_of(store: AdapterStore, signed: SignedCertificate) -> int:
    """The number of the newest certificate of the same model and request; 0 if the archive has none.

    The requests of one stack have a certificate each, and all of these are of the same model. So have adapters of the
    same weights, as two requests of the same rows have them. Numbers are a store's own: one that another store issued
    is held against those alone that its key signed.
    """
    certificate, subject = signed.certificate, signed.certificate.done.subject()[:16]
    ours, stands = _is_in(store, signed), _stands(store, certificate)
    for serial, other, path in sorted(archive_entries(store), reverse=True):
        if other != subject:
            continue
        try:
            found = read_signed(path)
        except CertificateError:
            return serial  # it was one of the same model
        of_one_store = ours or found.public_key == signed.public_key
        of_another = stands and found.certificate.name != certificate.name
        if of_one_store and not of_another and found.certificate.asked.request == certificate.asked.request:
            return serial
    return 0


def _stands(store: AdapterStore, certificate: Certificate) -> bool:
    """Whether the certified adapter still goes by its name: one that was renamed has its newer certificates by that."""
    there = store.get(certificate.name).manifest if certificate.name in store.names() else None
    return there is not None and there.fingerprint == certificate.done.adapters[-1].fingerprint


def _is_in(store: AdapterStore, signed: SignedCertificate) -> bool:
    """Whether this store issued it, with whatever key."""
    try:
        return (store.root / ARCHIVE / entry_name(signed.certificate)).read_bytes() == signed.data
    except OSError:
        return False
