"""Finished adapters at any address that fsspec knows: ``s3://bucket/adapters``, ``gs://``, ``file:///folder``.

Object stores have no rename, so a folder there can be seen half copied. An adapter is therefore uploaded out of sight,
read back and compared with what was sent, moved to its name, and then announced by one small file,
``.published/NAME.json``, with the hash of each of its files. What is not announced is not there, and what is fetched
is compared with what was announced.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from asu_lora.adapters.manifest import fingerprint_of
from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import AsuLoraError, SettingError, StoreError, first_line
from asu_lora.files import CHUNK, adapter_files, fsync_tree, sha256_file
from asu_lora.requests.ledger.ledger import Ledger
from asu_lora.requests.ledger.states import AUDITED, CERTIFIED, PUBLISHED, RE_AUDITED, TRAINED

ANNOUNCED, INCOMING = ".published", ".incoming"
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


@dataclass(frozen=True)
class Published:
    """An adapter that is whole at the address.

    Attributes:
        fingerprint: of its weights, as its manifest has it.
        files: {path in its folder: SHA-256}.
    """

    name: str
    fingerprint: str
    files: dict[str, str]


class ResultStore:
    """The adapters at one address.

    Attributes:
        address: as it was given; no password is in it.
    """

    def __init__(self, address: str):
        """Args:
            address: ``scheme://place``; credentials are the driver's own matter, in its environment or its files.

        Raises:
            SettingError: no address, one with a password in it, or its driver isn't installed.
        """
        import fsspec

        parts = urlsplit(address)
        if not parts.scheme or "://" not in address:
            raise SettingError(f"'{address}' is no address for adapters: write it like s3://bucket/adapters.")
        if parts.password is not None:
            raise SettingError("The address for adapters holds a password: give it to the driver by its environment.")
        self.address = address.rstrip("/")
        try:
            self.files, root = fsspec.core.url_to_fs(self.address)
        except (ImportError, ValueError) as error:
            raise SettingError(
                f"Adapters can't be put at {address}: {first_line(error).rstrip('.')}; install the driver for "
                f"{parts.scheme}:// (s3fs, gcsfs, adlfs, sshfs)."
            ) from error
        self.root = root.rstrip("/")

    def find(self, name: str) -> Published | None:
        """What was announced under a name; None if nothing was.

        Raises:
            StoreError: the address can't be reached, or what is there makes no sense.
        """
        with self._errors("be read"):
            self.files.invalidate_cache()
            try:
                told = json.loads(self.files.cat_file(self._announcement(name)))
            except FileNotFoundError:
                return None
        try:
            found = Published(told["name"], told["fingerprint"], dict(told["files"]))
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"What {self.address} says of {name} makes no sense: publish it anew.") from error
        if found.name != name or not all(_FILE.fullmatch(file) for file in found.files):
            raise StoreError(f"What {self.address} says of {name} makes no sense: publish it anew.")
        return found

    def names(self) -> list[str]:
        """The adapters that were announced, sorted."""
        with self._errors("be read"):
            self.files.invalidate_cache()
            try:
                there = self.files.ls(f"{self.root}/{ANNOUNCED}", detail=False)
            except FileNotFoundError:
                return []
        return sorted(Path(path).name.removesuffix(".json") for path in there if str(path).endswith(".json"))

    def publish(self, folder: Path, name: str) -> Published:
        """Upload an adapter; nothing where the very same is there already.

        Raises:
            StoreError: the address refuses, or what arrived is not what was sent. The name is then not announced.
        """
        wanted = Published(name, fingerprint_of(folder), {file: sha256_file(path) for file, path in _files(folder)})
        if self.find(name) == wanted:
            return wanted
        with self._errors(f"take {name}"):
            self._sweep(name)
            staged = f"{self.root}/{INCOMING}/{name}-{uuid4().hex}"
            try:
                for file, path in _files(folder):
                    self.files.makedirs(f"{staged}/{file}".rpartition("/")[0], exist_ok=True)
                    self.files.put_file(str(path), f"{staged}/{file}")
                self._compare(staged, wanted)
                self._withdraw(name)
                self._move(staged, name)
                self._announce(wanted)
            except BaseException:
                with suppress(Exception):
                    self.files.rm(staged, recursive=True)
                raise
        return wanted

    def fetch(self, name: str, store: AdapterStore, fingerprint: str | None = None) -> None:
        """Bring an adapter into a store.

        Args:
            fingerprint: that it must have, as the ledger tells it.

        Raises:
            StoreError: it isn't there, the address can't be reached, or it is not what was announced.
        """
        found = self.find(name)
        if found is None:
            raise StoreError(f"There is no adapter {name} at {self.address}: it was trained without --publish.")
        if fingerprint is not None and found.fingerprint != fingerprint:
            raise StoreError(f"The adapter {name} at {self.address} is another than the one that was trained.")
        with store.stage(name) as staged:
            with self._errors(f"give {name}"):
                for file, wanted in found.files.items():
                    target = staged / file
                    target.parent.mkdir(parents=True, exist_ok=True)
                    self.files.get_file(f"{self.root}/{name}/{file}", str(target))
                    if sha256_file(target) != wanted:
                        raise StoreError(f"{file} of {name} at {self.address} is not what was announced.")
            if fingerprint_of(staged) != found.fingerprint:
                raise StoreError(f"The weights of {name} at {self.address} are not what was announced.")

    def remove(self, name: str) -> bool:
        """Take an adapter away, its announcement first; whether there was one."""
        there = self.find(name) is not None
        with self._errors(f"give up {name}"):
            self._withdraw(name)
            self._sweep(name)
        return there

    # ---- beneath

    def _announcement(self, name: str) -> str:
        return f"{self.root}/{ANNOUNCED}/{name}.json"

    def _compare(self, folder: str, wanted: Published) -> None:
        for file, told in wanted.files.items():
            digest = hashlib.sha256()
            with self.files.open(f"{folder}/{file}", "rb") as stream:
                while piece := stream.read(CHUNK):
                    digest.update(piece)
            if digest.hexdigest() != told:
                raise StoreError(f"{file} of {wanted.name} arrived at {self.address} as something else: try again.")

    def _move(self, staged: str, name: str) -> None:
        if self._is_local:
            fsync_tree(Path(staged))
        self.files.mv(staged, f"{self.root}/{name}", recursive=True)
        self.files.invalidate_cache()

    def _announce(self, wanted: Published) -> None:
        """One file: object stores write it whole; elsewhere it is written beside and moved."""
        beside, to = f"{self.root}/{INCOMING}/{uuid4().hex}.json", self._announcement(wanted.name)
        for path in (beside, to):
            self.files.makedirs(path.rpartition("/")[0], exist_ok=True)
        content = json.dumps(asdict(wanted), indent=1).encode()
        if self._is_local:
            self.files.pipe_file(beside, content)
            self.files.mv(beside, to)
            fsync_tree(Path(to).parent)
        else:
            self.files.pipe_file(to, content)
        self.files.invalidate_cache()

    def _withdraw(self, name: str) -> None:
        for path in (self._announcement(name), f"{self.root}/{name}"):
            with suppress(FileNotFoundError):
                self.files.rm(path, recursive=True)
        self.files.invalidate_cache()

    def _sweep(self, name: str) -> None:
        """Uploads of this name that a killed run left: one run alone is at work on a name."""
        with suppress(FileNotFoundError):
            for path in self.files.ls(f"{self.root}/{INCOMING}", detail=False):
                if re.fullmatch(rf"{re.escape(name)}-[0-9a-f]{{32}}", str(path).rstrip("/").rpartition("/")[2]):
                    self.files.rm(path, recursive=True)

    @property
    def _is_local(self) -> bool:
        return "file" in (self.files.protocol if isinstance(self.files.protocol, tuple) else (self.files.protocol,))

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except AsuLoraError:
            raise
        except Exception as error:  # each driver has errors of its own: network, rights, quota
            said: Any = getattr(error, "strerror", None) or first_line(error)
            why = str(said).rstrip(".")
            raise StoreError(f"{self.address} can't {what} ({why}): run again, it goes on.") from error


def addresses_of(ledger: Ledger, request: str) -> list[str]:
    """Every address at which a request's adapter was published, as its history tells."""
    lines = ledger.history(request, [TRAINED, AUDITED, RE_AUDITED, PUBLISHED, CERTIFIED])
    return list(dict.fromkeys(line.payload["published"] for line in lines if line.payload.get("published")))


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    return adapter_files(folder)
