"""An adapter as one file: packed the same way every time, and unpacked as if its sender meant harm.

Before a byte is written, every entry is looked at: a path that leaves the folder, a link, a device, a pickle,
an entry that comes twice, or more bytes than an adapter has, and the whole archive is refused.
"""

import gzip
import io
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from asu_lora.adapters.verify import PICKLE_SUFFIXES
from asu_lora.errors import AdapterError, StoreError
from asu_lora.files import CHUNK, adapter_files

MAX_BYTES = 16 << 30  # unpacked; rank 64 on every matrix of a 70B model is about 3.3 GB in fp32
MAX_ENTRIES = 2000
MAX_RATIO = 100  # numbers hardly compress; beyond this, and beyond a few MB, it is a bomb
RATIO_FREE = 64 << 20
MAX_SIP = 1 << 22  # bytes read at once; a tar header has 512, and its extensions a few more
SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip")
# What the readers raise at bytes that make no sense to them. (BadGzipFile is an OSError like the disk's.)
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
)
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip can say


@dataclass(frozen=True)
class Entry:
    """A file in an archive: its path, its announced size in bytes, and the archive's own word for it."""

    path: PurePosixPath
    size: int
    member: Any


def archive_suffix(path: Path) -> str | None:
    """``.tar.gz``, ``.tgz``, ``.tar`` or ``.zip`` if the name ends so, else None."""
    return next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)


def unpack(archive: Path, folder: Path, max_bytes: int = MAX_BYTES) -> None:
    """Unpack an archive into an empty folder, after every entry in it was found harmless.

    Raises:
        AdapterError: it is no archive, is damaged, or holds something an adapter has no need of.
        StoreError: the disk has no room for it.
    """
    try:
        with _opened(archive, max_bytes) as (entries, open_member):
            _refuse_harm(archive, entries, max_bytes)
            for entry in entries:
                target = folder.joinpath(*entry.path.parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with open_member(entry.member) as source, open(target, "xb") as file:
                    _copy(source, file, entry, archive)
    except _DAMAGE as error:
        raise AdapterError(f"{archive.name} is no archive, or a damaged one: {error}.") from error
    except OSError as error:
        raise StoreError(f"{archive.name} can't be unpacked: {error.strerror or error}.") from error


def pack(folder: Path, archive: Path, root: str) -> None:
    """Write an adapter's files to an archive, below one folder called ``root``.

    Owner, time and order are left out or fixed: the same adapter gives the same bytes.
    """
    if archive_suffix(archive) == ".zip":
        with zipfile.ZipFile(archive, "x", zipfile.ZIP_DEFLATED) as target:
            for name, path in adapter_files(folder):
                info = zipfile.ZipInfo(f"{root}/{name}", EPOCH)
                info.external_attr = (stat.S_IFREG | 0o644) << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                with open(path, "rb") as source, target.open(info, "w", force_zip64=True) as file:
                    shutil.copyfileobj(source, file, CHUNK)
        return
    with (
        open(archive, "xb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as packed_tar,
    ):
        for name, path in adapter_files(folder):
            member = tarfile.TarInfo(f"{root}/{name}")
            member.size = path.stat().st_size
            with open(path, "rb") as source:
                packed_tar.addfile(member, source)


@contextmanager
def _opened(archive: Path, max_bytes: int) -> Iterator[tuple[list[Entry], Any]]:
    if archive_suffix(archive) == ".zip":
        with zipfile.ZipFile(archive) as source:
            yield [_zip_entry(archive, info) for info in source.infolist() if not info.is_dir()], source.open
    else:
        with open(archive, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with (
                _Sips(archive, gzip.GzipFile(fileobj=raw) if packed else raw) as sips,
                tarfile.open(fileobj=sips, mode="r:") as source,
            ):
                entries = list(_tar_entries(archive, source, max_bytes))
                _refuse_remains(archive, sips, entries)
                yield entries, source.extractfile


def _zip_entry(archive: Path, info: zipfile.ZipInfo) -> Entry:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise _refused(archive, info.filename, "a link or a device")
    if info.flag_bits & 1:
        raise _refused(archive, info.filename, "encrypted")
    # ZipInfo turns the platform's separator into "/", and cuts names at a zero byte: judge what was meant.
    return Entry(_path(archive, info.orig_filename), info.file_size, info)


class _Sips(io.BufferedIOBase):
    """A stream that is read in small pieces only.

    tarfile reads a header's extension whole, at the size the archive gives, so a few kilobytes of gzip could
    ask for any amount of memory.
    """

    def __init__(self, archive: Path, stream: io.BufferedIOBase):
        self.archive, self.stream = archive, stream

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= MAX_SIP:
            raise AdapterError(f"{self.archive.name} is refused: one of its headers is far too large.")
        return self.stream.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.stream.seek(offset, whence)

    def tell(self) -> int:
        return self.stream.tell()

    def seekable(self) -> bool:
        return True


def _tar_entries(archive: Path, source: tarfile.TarFile, max_bytes: int) -> Iterator[Entry]:
    # One header at a time, so that a bomb is noticed by what it announces, not by what it fills.
    total = 0
    for count, member in enumerate(source):
        total += member.size
        if count > MAX_ENTRIES:
            raise AdapterError(f"{archive.name} is refused: it has more than {MAX_ENTRIES} entries.")
        _refuse_size(archive, total, max_bytes)
        path = _path(archive, member.name)
        if member.isdir():
            continue
        if not member.isreg() or member.issparse():
            raise _refused(archive, member.name, "a link or a device")
        yield Entry(path, member.size, member)


def _refuse_remains(archive: Path, stream: io.BufferedIOBase, entries: list[Entry]) -> None:
    """Read on behind the last entry: only zeros may be there, and at least some.

    tarfile takes a damaged header for the end, which would leave entries out in silence; and gzip compares
    its checksum at the very end only.
    """
    end = max((entry.member.offset_data + entry.size for entry in entries), default=0)
    complete, left = stream.tell() > end + -end % tarfile.BLOCKSIZE, MAX_SIP
    while piece := stream.read(CHUNK):
        left -= len(piece)
        if left < 0 or piece.strip(b"\0"):
            complete = False
            break
    if not complete:
        raise AdapterError(f"{archive.name} is a damaged archive: it does not end where its entries do.")


def _path(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    climbs = path.is_absolute() or ".." in path.parts
    if climbs or "\\" in name or "\0" in name or (path.parts and ":" in path.parts[0]):
        raise _refused(archive, name, "a path that leaves its folder")
    return path


def _refuse_harm(archive: Path, entries: list[Entry], max_bytes: int) -> None:
    if len(entries) > MAX_ENTRIES:
        raise AdapterError(f"{archive.name} is refused: it has more than {MAX_ENTRIES} entries.")
    _refuse_size(archive, sum(entry.size for entry in entries), max_bytes)
    seen = set()
    for entry in entries:
        if entry.path.suffix.lower() in PICKLE_SUFFIXES:
            raise _refused(archive, str(entry.path), "a pickle, which could run code and is never opened")
        folded = str(entry.path).casefold()  # two names that are one on some disks
        if not entry.path.parts or folded in seen:
            raise _refused(archive, str(entry.path), "there twice")
        seen.add(folded)


def _refuse_size(archive: Path, total: int, max_bytes: int) -> None:
    packed = os.path.getsize(archive)
    if total > max_bytes or (total > RATIO_FREE and total > MAX_RATIO * packed):
        raise AdapterError(
            f"{archive.name} is refused: its {packed} bytes unpack to {total} or more, which no adapter's do."
        )


def _copy(source: IO[bytes], file: IO[bytes], entry: Entry, archive: Path) -> None:
    left = entry.size
    while piece := source.read(CHUNK):
        left -= len(piece)
        if left < 0:
            raise _refused(archive, str(entry.path), "larger than it announced")
        file.write(piece)
    if left:
        raise AdapterError(f"{archive.name} is a damaged archive: {entry.path} is cut off.")


def _refused(archive: Path, name: str, what: str) -> AdapterError:
    return AdapterError(f"{archive.name} is refused and nothing was unpacked: its entry {name!r} is {what}.")
