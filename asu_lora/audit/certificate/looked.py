"""Files held against what a certificate says of them, each hashed once."""

from dataclasses import dataclass, field
from pathlib import Path

from asu_lora.adapters.manifest import CONFIG_NAME
from asu_lora.adapters.sharing import config_as_shared
from asu_lora.audit.certificate.identity import hash_files, sha256_text
from asu_lora.errors import AdapterError
from asu_lora.files import refuse_link_outwards


@dataclass
class Looked:
    """What one check has looked at: whoever wrote a certificate may name the same file ten thousand times.

    Attributes:
        store: the folder of the store at hand, whose adapters name their bases as this machine does.
        folders: of adapters that it speaks of.
        hashes: the sha256 of files, by path.
    """

    store: Path | None = None
    folders: set[Path] = field(default_factory=set)
    hashes: dict[Path, str] = field(default_factory=dict)

    def sha256(self, folder: Path, name: str) -> str:
        """A file's hash. See :func:`~.identity.hash_files` for errors."""
        path = folder / name
        if path not in self.hashes:
            self.hashes[path] = hash_files(folder, [name])[name]
        return self.hashes[path]

    def problem(self, folder: Path, files: dict[str, str]) -> str | None:
        """What is wrong with a folder's files, of which a certificate tells {name: sha256}; None if nothing is.

        Raises:
            AdapterError: a file is a link that leads out of the folder.
            CertificateError: a file can't be read.
        """
        for name in files:
            refuse_link_outwards(folder, folder / name)
            if not (folder / name).is_file():
                return f"{name} is missing from {folder}."
        wrong = next((name for name, figure in files.items() if not self._is(folder, name, figure)), None)
        return f"{wrong} in {folder} is not the file that was certified: its sha256 differs." if wrong else None

    def _is(self, folder: Path, name: str, figure: str) -> bool:
        if self.sha256(folder, name) == figure:
            return True
        if name != CONFIG_NAME:
            return False
        at_home = self.store is not None and folder.resolve().parent == self.store.resolve()
        try:
            shared = config_as_shared(folder, any_path=at_home)  # as it leaves a store, so it is certified
        except AdapterError:  # it is none any more
            return False
        return shared is not None and sha256_text(shared) == figure
