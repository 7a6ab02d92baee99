"""The archive: every certificate that a store has issued, by its number, in ``.certificates/``.

It is how an older certificate is told from the newest, and where the curves of the store's page come from.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from asu_lora.adapters.store import AdapterStore
from asu_lora.audit.certificate.record import Certificate, Done

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


def newest_of(store: AdapterStore, what: Done) -> int:
    """The number of the newest certificate of the same model; 0 if the archive has none."""
    subject = what.subject()[:16]
    return max((serial for serial, other, _ in archive_entries(store) if other == subject), default=0)
