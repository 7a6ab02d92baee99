"""Adapters into the store and out of it, as folders and as archives; nothing unverified passes."""

import dataclasses
import os
import re
import shutil
from collections.abc import Callable, Container
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from asu_lora.adapters.archive import archive_suffix, pack, unpack
from asu_lora.adapters.manifest import CONFIG_NAME, MANIFEST_NAME, WEIGHTS_NAME, has_manifest, read_manifest
from asu_lora.adapters.sharing import shareable
from asu_lora.adapters.stored_adapter import StoredAdapter, look_at
from asu_lora.adapters.verify import pickles_in, verify_adapter
from asu_lora.errors import AdapterError, StoreError
from asu_lora.files import (
    adapter_files,
    copy_tree,
    discard,
    expanded,
    fsync_path,
    fsync_tree,
    refuse_link_outwards,
    write_atomic,
)

if TYPE_CHECKING:
    from asu_lora.adapters.store import AdapterStore

# What else a PEFT folder may bring along: its card, what a tokenizer is saved as, and what asu-lora puts beside it. No
# other weights, and nothing by its ending alone: rows of a request may lie there as JSON or text, and would be pushed.
_COMPANIONS = re.compile(
    r"README\.md|LICENSE(\.md|\.txt)?|(audit|certificate)\.json|(tokenizer|spiece|sentencepiece\.bpe)\.model|"
    r"(added_tokens|chat_template|config|generation_config|special_tokens_map|tokenizer|tokenizer_config|vocab)\.json|"
    r"(merges|vocab)\.txt|chat_template\.jinja"
)


def import_adapter(store: "AdapterStore", source: Path, name: str | None = None) -> StoredAdapter:
    """See :meth:`asu_lora.adapters.store.AdapterStore.import_`.

    Raises:
        AdapterError: the source is no adapter, or a broken or harmful one. The store is as it was.
        StoreError: the name is taken or can't be a name.
    """
    source = expanded(source)
    try:
        if source.is_dir():
            return _take_in(store, find_adapter(source), name, source.resolve().name, take=shutil.copyfile)
        return _import_archive(store, source, name)
    except OSError as error:
        raise StoreError(f"{source} can't be imported: {error.strerror or error}.") from error


def _import_archive(store: "AdapterStore", source: Path, name: str | None) -> StoredAdapter:
    if not source.is_file():
        raise AdapterError(f"There is no folder or archive {source}.")
    suffix = archive_suffix(source)
    if suffix is None:
        raise AdapterError(f"{source} is no adapter: give a PEFT folder, or one as .tar.gz or .zip.")
    if name is not None:
        store.check_name(name)  # before the work, not after it
    with store.scratch() as scratch:
        unpack(source, scratch)
        return _take_in(store, find_adapter(scratch), name, source.name[: -len(suffix)], take=os.rename)


def _take_in(
    store: "AdapterStore", folder: Path, name: str | None, fallback: str, take: Callable[[Path, Path], object]
) -> StoredAdapter:
    from asu_lora.adapters.model_card import restate

    # Pickles further down (a trainer's checkpoints) are not refused: nothing down there is taken.
    if pickles := [path for path in pickles_in(folder) if "/" not in path]:
        raise AdapterError(
            f"{folder.name} holds {pickles[0]}, a pickle, which could run code and is never "
            "opened: delete it, or save the adapter as safetensors with PEFT."
        )
    for file in (CONFIG_NAME, MANIFEST_NAME):
        refuse_link_outwards(folder, folder / file)
    manifest = read_manifest(folder) if has_manifest(folder) else None
    name = name or (manifest.name if manifest else fallback)
    recorded = manifest.files if manifest else ()
    taken = [file for file, _ in adapter_files(folder) if belongs(file, recorded)]
    left_out = tuple(file for file, _ in adapter_files(folder) if file not in taken)
    with store.stage(name) as staged:
        for relative in taken:
            refuse_link_outwards(folder, folder / relative)
            target = staged / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            take(folder / relative, target)
        report = verify_adapter(staged)
        if not report.ok:
            raise AdapterError(f"The adapter {name} was not imported: {report.problems[0]}")
        if manifest and manifest.name != name:
            renamed = manifest.model_copy(update={"name": name})
            for file, text in restate(staged, renamed).items():
                write_atomic(staged / file, text)
        # Looked at before it is published: afterwards somebody may be quick to rename or remove it.
        taken_in = look_at(staged, name)
    return dataclasses.replace(taken_in, path=store.root / name, left_out=left_out)


def find_adapter(folder: Path) -> Path:
    """The adapter folder itself: ``folder``, or the one folder in it that is one.

    Raises:
        AdapterError: there is none, or more than one.
    """
    if (folder / CONFIG_NAME).is_file():
        return folder
    inside = [path.parent for path in sorted(folder.glob(f"*/{CONFIG_NAME}")) if not path.parent.name.startswith(".")]
    if len(inside) == 1:
        return inside[0]
    if inside:
        names = ", ".join(path.name for path in inside[:5])
        raise AdapterError(f"There are several adapters in {folder.name} ({names}): import them one by one.")
    raise AdapterError(f"No {CONFIG_NAME} was found: this is no PEFT adapter.")


def belongs(file: str, recorded: Container[str] = ()) -> bool:
    """Whether a file of a folder is the adapter's: its own, recorded in its manifest, or card and tokenizer beside."""
    return file in recorded or file in (CONFIG_NAME, MANIFEST_NAME, WEIGHTS_NAME) or bool(_COMPANIONS.fullmatch(file))


def export_adapter(store: "AdapterStore", name: str, destination: Path) -> Path:
    """See :meth:`asu_lora.adapters.store.AdapterStore.export`.

    Raises:
        AdapterError: the adapter is broken.
        StoreError: it is unknown, or the destination exists or can't be written.
    """
    destination = expanded(destination)
    suffix = archive_suffix(destination)
    if suffix == ".tar" or (suffix is None and destination.suffix in (".gz", ".7z", ".rar", ".bz2", ".xz")):
        raise StoreError(f"Archives end in .tar.gz, .tgz or .zip, and {destination.name} does not.")
    if os.path.lexists(destination):
        raise StoreError(f"{destination} is there already and is not overwritten: choose another place.")
    beside = destination.parent / f".{destination.name}.{uuid4().hex}{suffix or ''}"
    with shareable(store, name) as snapshot:
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            if suffix:
                pack(snapshot, beside, root=name)
                fsync_path(beside)
            else:
                copy_tree(snapshot, beside)
                fsync_tree(beside)
            os.rename(beside, destination)
        except OSError as error:
            why = error.strerror or error
            raise StoreError(f"{name} can't be exported to {destination}: {why}.") from error
        finally:
            discard(beside)
    return destination
