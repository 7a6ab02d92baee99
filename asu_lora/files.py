"""Small file operations that a crash can't leave half done."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from uuid import uuid4

import platformdirs

from asu_lora.errors import AdapterError, SettingError, StoreError

CHUNK = 1 << 20
MAX_JSON = 8 << 20  # bytes; a list of every module of the largest mixture of experts fits
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # a disk that takes no more
# what torch says of a disk that refuses, without the system's number
TORCH_WRITES = re.compile(r"PytorchStreamWriter failed|inline_container\.cc:\d+\] \. unexpected pos")
MAX_DEPTH = 40  # levels of lists and objects; those of an adapter have five


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def fsync_path(path: Path) -> None:
    """Ask the disk to keep a file or a folder's entries. Folders can't be opened so on Windows: skipped."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        if os.name == "nt":
            return
        raise
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """:func:`fsync_path` for every file and folder below ``folder``, and for itself."""
    for parent, _, files in os.walk(folder):
        for name in files:
            fsync_path(Path(parent, name))
        fsync_path(Path(parent))


def write_atomic(path: Path, text: str, mode: int = 0o666) -> None:
    """Write ``text`` beside ``path``, then rename: a reader sees the old file or the new one, whole.

    The rename also gives the file a new inode, so hard links to the old one keep the old content.

    Args:
        mode: who may read and write it, less what the umask takes away.
    """
    beside = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise
    fsync_path(path.parent)


def as_any_new_file(path: Path) -> None:
    """Give a file, in a folder just made, the permissions of its neighbours: safetensors gives its owner's alone."""
    path.chmod(0o666 & path.parent.stat().st_mode)


def read_json(path: Path) -> Any:
    """Read a JSON file that a stranger may have written.

    Raises:
        OSError: it can't be read.
        ValueError: it is no JSON, too large, nested too deep, or holds text that can't be written again.
    """
    with open(path, "rb") as file:
        data = file.read(MAX_JSON + 1)
    if len(data) > MAX_JSON:
        raise ValueError(f"it has more than {MAX_JSON >> 20} MiB")
    try:
        value = json.loads(data.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    refuse_depth(value)
    json.dumps(value, ensure_ascii=False).encode("utf-8")  # half a surrogate pair can't be encoded
    return value


def refuse_depth(value: Any) -> None:
    """Refuse a JSON value whose depth breaks what walks it by recursion: depth is what a forger may choose.

    Raises:
        ValueError: it is nested more than MAX_DEPTH deep.
    """
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    if level:
        raise ValueError("it is nested too deep")


def expanded(path: str | Path) -> Path:
    """A path with the home that its ``~`` stands for; of a user that nobody knows it stays, as in a shell."""
    return Path(os.path.expanduser(path))


def refuse_read_only(folder: Path) -> None:
    """Refuse a folder, there already or still to be made, in which nothing can be written.

    Raises:
        OSError: as writing there would raise it, minutes later.
    """
    there = next((each for each in (folder, *folder.absolute().parents) if each.exists()), folder)
    if not os.access(there, os.W_OK):
        code = errno.EROFS if os.statvfs(there).f_flag & os.ST_RDONLY else errno.EACCES
        raise OSError(code, os.strerror(code), str(there))


def discard(path: Path) -> None:
    """Delete a file, a link (not what it leads to) or a whole folder; what is gone already is fine."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def adapter_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file of an adapter folder as (relative posix name, path), sorted; hidden ones are left out."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in relative.parts):
            yield relative.as_posix(), path


def refuse_link_outwards(folder: Path, path: Path) -> None:
    """Refuse a file that is reached through a link to somewhere outside its adapter's folder.

    The hub's cache keeps its files as links to blobs beside the snapshot: these are the adapter's own.

    Raises:
        AdapterError: naming the file.
    """
    root, real = folder.resolve(), path.resolve()
    blobs = root.parent.parent / "blobs" if root.parent.name == "snapshots" else root
    if not (real.is_relative_to(root) or real.is_relative_to(blobs)):
        raise AdapterError(
            f"{folder.name} holds {path.relative_to(folder).as_posix()}, a link that leads out of the folder: put the "
            "file itself there."
        )


def link_tree(source: Path, target: Path) -> None:
    """Hard links to all files of a folder in a new one; copies where the disk can't link.

    Raises:
        AdapterError: one of them is a link that leads out of the folder.
    """
    target.mkdir(parents=True)
    for name, path in adapter_files(source):
        refuse_link_outwards(source, path)
        link = target / name
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path.resolve(), link)
        except OSError:
            shutil.copy2(path, link)


def copy_tree(source: Path, target: Path) -> None:
    """Copies of all files of an adapter's folder in a new one; ``shutil.copytree`` goes on after a full disk.

    Raises:
        OSError: the first that the disk refuses.
    """
    for name, path in adapter_files(source):
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)


@contextmanager
def disk_errors(root: Path, what: str = "adapter store", only: Collection[int] = ()) -> Iterator[None]:
    """Say a refusal of the disk (full, read-only, no permission) in one sentence, about ``what`` lies at ``root``.

    Args:
        only: the numbers (:mod:`errno`) of those that are meant, where the block may meet others.
    """
    try:
        with as_os_error():
            yield
    except OSError as error:
        if only and error.errno not in only:
            raise
        where = f" ({error.filename})" if error.filename and str(error.filename) != str(root) else ""
        why = f"{error.strerror or error}{where}"
        raise StoreError(f"The {what} {root} can't be changed: {why}.") from error


@contextmanager
def as_os_error() -> Iterator[None]:
    """Raise what the system refused to safetensors or torch as the OSError it is: each has errors of its own."""
    try:
        yield
    except Exception as error:
        if isinstance(error, RuntimeError) and TORCH_WRITES.search(str(error)):
            raise OSError(errno.EIO, "a checkpoint can't be written (is the disk full?)") from error
        number = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def check_writable(folder: str | Path) -> None:
    """Make a folder of results and try to write into it, before minutes of work.

    Raises:
        StoreError: it can't be made, or nothing can be written into it.
    """
    folder = Path(folder)
    with disk_errors(folder, "folder"):
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass


def refuse_to_replace(out: str | Path, read: Iterable[str | Path | None]) -> None:
    """Refuse to write a result over a file that the same command reads: a request is often the only copy.

    Args:
        read: files, hub ids among them; None for what wasn't named.

    Raises:
        SettingError: naming the file.
    """
    for path in (expanded(source) for source in read if source is not None):
        if path.is_file() and expanded(out).exists() and path.samefile(expanded(out)):
            raise SettingError(f"{out} is read by this command, and would be lost: write the result to another file.")


def write_files(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write files, {name: text}, into a folder that is made if need be; each is whole at any moment."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_atomic(folder / name, text)
    return [folder / name for name in texts]


def cache_folder() -> Path:
    """Where the embedded base and fingerprints are kept (``ASU_LORA_CACHE``, else the user's cache).

    Raises:
        FileNotFoundError: there is no home to keep a cache in.
    """
    folder = Path(os.environ.get("ASU_LORA_CACHE") or platformdirs.user_cache_dir("asu-lora"))
    if folder.parts[:1] == ("~",):  # what is left of a home that nobody knows
        raise FileNotFoundError(errno.ENOENT, "this user has no home folder", str(folder))
    return folder
