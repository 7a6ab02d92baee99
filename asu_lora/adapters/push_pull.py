"""Adapters to and from the Hugging Face hub, or a folder that stands for one.

Only verified adapters are pushed, and new repositories are private unless asked otherwise: that somebody
asked to be forgotten is their own matter, even as counts. Only safetensors, JSON and Markdown are pulled.
"""

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from asu_lora.adapters.sharing import shareable
from asu_lora.adapters.stored_adapter import StoredAdapter
from asu_lora.errors import AdapterError, SettingError, first_line
from asu_lora.files import expanded

if TYPE_CHECKING:
    from asu_lora.adapters.store import AdapterStore

PATTERNS = ["*.safetensors", "*.json", "*.md"]
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def local_folder(place: str) -> Path | None:
    """The folder a ``file://`` address or an existing path stands for; None for a repository of the hub."""
    parts = urlsplit(place)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    path = expanded(place)
    return path if path.is_dir() or place.startswith((".", "/", "~")) else None


def push(store: "AdapterStore", name: str, repository: str, private: bool = True) -> str:
    """Upload an adapter to ``user/name`` on the hub, or put it at ``file:///path``; return where it is.

    Raises:
        AdapterError: the adapter is broken, or the hub can't be reached or refuses.
        StoreError: the adapter is unknown, or the folder exists.
    """
    if (folder := local_folder(repository)) is not None:
        return str(store.export(name, folder))
    _check_id(repository)
    with shareable(store, name) as snapshot:
        from huggingface_hub import HfApi

        try:
            api = HfApi()
            url = api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=url.repo_id,
                folder_path=snapshot,
                allow_patterns=PATTERNS,
                commit_message=f"asu-lora adapter {name}",
            )
        except Exception as error:  # network, rights, quota: to the person all are one sentence
            raise AdapterError(f"{name} was not pushed to {repository}: {_reason(error)}") from error
    return str(url)


def pull(store: "AdapterStore", repository: str, name: str | None = None, revision: str | None = None) -> StoredAdapter:
    """Fetch an adapter from ``user/name`` on the hub, or from a folder, into the store; verified first.

    Raises:
        AdapterError: the hub can't be reached, has no such repository, or what it has is no whole adapter.
        SettingError: a revision of a folder.
        StoreError: the name is taken or can't be a name.
    """
    if (folder := local_folder(repository)) is not None:
        if revision is not None:
            raise SettingError(
                f"--revision is for a repository of the hub, and {repository} is a folder: leave it away."
            )
        return store.import_(folder, name)
    _check_id(repository)
    if name is not None:
        store.check_name(name)
    with store.scratch() as scratch:
        from huggingface_hub import snapshot_download

        target = scratch / repository.partition("/")[2]
        try:
            snapshot_download(repository, revision=revision, allow_patterns=PATTERNS, local_dir=target)
        except Exception as error:
            raise AdapterError(f"{repository} was not pulled: {_reason(error)}") from error
        shutil.rmtree(target / ".cache", ignore_errors=True)  # the hub client's notes on the download
        return store.import_(target, name)


def _check_id(repository: str) -> None:
    if not _REPO_ID.fullmatch(repository):
        raise AdapterError(f"{repository!r} is no repository of the hub (user/name) and no folder.")


def _reason(error: Exception) -> str:
    """What went wrong between us and the hub, in one sentence."""
    from huggingface_hub import errors

    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and len(chain) < 10:
        chain.append(cause)

    def among(*kinds: type) -> bool:
        return any(isinstance(each, kinds) for each in chain)

    if among(errors.OfflineModeIsEnabled):
        return "the hub is switched off here (HF_HUB_OFFLINE)."
    if among(errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.GatedRepoError):
        return "the hub has no such repository or revision, or does not show it to you ('hf auth login')."
    if among(errors.LocalTokenNotFoundError):
        return "you are not logged in to the hub ('hf auth login', or HF_TOKEN)."
    if among(errors.HfHubHTTPError):
        first = next(each for each in chain if isinstance(each, errors.HfHubHTTPError))
        return f"the hub refused ({first_line(first)})."
    # By name: which HTTP library the hub's client stands on changes with its versions.
    names = {kind.__name__ for each in chain for kind in type(each).__mro__}
    if names & {"TransportError", "ConnectionError", "TimeoutError", "LocalEntryNotFoundError"}:
        return "the hub can't be reached ('asu-lora adapters export' makes an archive instead)."
    said = str(error).strip() or type(error).__name__
    return f"{said.splitlines()[0].rstrip('.')}."
