"""Adapters to and from the Hugging Face hub, or a folder that stands for one.

Only verified adapters are pushed, and new repositories are private unless asked otherwise: that somebody
asked to be forgotten is their own matter, even as counts. Only an adapter's own files travel, whatever lies beside
them: no rows and no pickles. What a repository says of the adapter that it held goes with the commit of a new one.
"""

import dataclasses
import glob
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from asu_lora.adapters.import_export import belongs
from asu_lora.adapters.manifest import CARD_NAME, CONFIG_NAME, MANIFEST_NAME, WEIGHTS_NAME, has_manifest, read_manifest
from asu_lora.adapters.sharing import shareable
from asu_lora.adapters.stored_adapter import StoredAdapter
from asu_lora.adapters.verify import PICKLE_SUFFIXES
from asu_lora.errors import AdapterError, AsuLoraError, SettingError, first_line
from asu_lora.files import adapter_files, expanded

if TYPE_CHECKING:
    from asu_lora.adapters.store import AdapterStore

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUBS_OWN = re.compile(r"\.gitattributes|README\.md|LICENSE(\..*)?")  # in a repository that nobody has filled
_OF_ONE_ADAPTER = (MANIFEST_NAME, CARD_NAME, "audit.json", "certificate.json")  # which lie beside no other one
_WAYS_OUT = {
    401: "it does not know your token: 'hf auth login', or HF_TOKEN",
    403: "your token may not do that: take one that may, with 'hf auth login' or HF_TOKEN",
    412: "somebody else changed the repository meanwhile: try again",
    429: "wait a little and try again",
}


def local_folder(place: str) -> Path | None:
    """The folder a ``file://`` address or an existing path stands for; None for a repository of the hub."""
    parts = urlsplit(place)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    path = expanded(place)
    return path if path.is_dir() or place.startswith((".", "/", "~")) else None


def push(store: "AdapterStore", name: str, repository: str, private: bool = True) -> str:
    """Upload an adapter to ``user/name`` on the hub, or put it at ``file:///path``; return where it is.

    A folder of this machine that is called ``user/name`` too is left alone.

    Raises:
        AdapterError: the adapter is broken, the repository is no place for it, or the hub can't be reached or refuses.
        StoreError: the adapter is unknown, or the folder exists.
    """
    if not _REPO_ID.fullmatch(repository) and (folder := local_folder(repository)) is not None:
        return str(store.export(name, folder))
    repository = _repository(repository)
    with shareable(store, name) as snapshot:
        _check_card(snapshot, name)
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        api, own = HfApi(), _own_files(snapshot)
        with _in_one_sentence(f"{name} was not pushed to {repository}", export=True):
            there = _looked_at(api, repository)
            held = [file.rfilename for file in there.siblings or []] if there else []
            if there:
                _check_place(repository, held, there.private, private)
            url = api.create_repo(repository, private=private, exist_ok=True)
            stale = [file for file in held if file in _OF_ONE_ADAPTER and file not in own and CONFIG_NAME in held]
            api.create_commit(
                url.repo_id,
                [
                    *(CommitOperationAdd(file, path) for file, path in own.items()),
                    *(CommitOperationDelete(file) for file in stale),
                ],
                commit_message=f"asu-lora adapter {name}",
                parent_commit=there.sha if there else None,
            )
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
    repository = _repository(repository)
    if name is not None:
        store.check_name(name)
    with store.scratch() as scratch:
        target = scratch / repository.partition("/")[2]
        with _in_one_sentence(f"{repository} was not pulled"):
            left_out = _fetch(store, repository, name, revision, target)
        taken_in = store.import_(target, name)
    return dataclasses.replace(taken_in, left_out=left_out)


def _fetch(
    store: "AdapterStore", repository: str, name: str | None, revision: str | None, target: Path
) -> tuple[str, ...]:
    """Fetch an adapter's files into ``target``, the small ones first; return what else the repository holds.

    Raises:
        AdapterError: it holds no adapter, several, or one without safetensors.
        StoreError: the name is taken or can't be a name; the weights are not fetched then.
    """
    from huggingface_hub import HfApi, snapshot_download

    there = HfApi().model_info(repository, revision=revision)
    held = [file.rfilename for file in there.siblings or [] if ".." not in PurePosixPath(file.rfilename).parts]
    within = _adapter_within(repository, held)

    def fetch(files: list[str]) -> None:
        patterns = [glob.escape(within + file) for file in files]
        snapshot_download(repository, revision=there.sha, allow_patterns=patterns, local_dir=target)

    fetch([CONFIG_NAME, MANIFEST_NAME])
    manifest = read_manifest(target / within) if has_manifest(target / within) else None
    store.check_name(name or (manifest.name if manifest else target.name))
    inside = [file.removeprefix(within) for file in held if file.startswith(within)]
    own = [file for file in inside if belongs(file, manifest.files if manifest else ()) and not _pickled(file)]
    if WEIGHTS_NAME not in own:
        pickle = next((file for file in inside if _pickled(file) and "/" not in file), None)
        why = f" but {pickle}, a pickle, which could run code and is never fetched" if pickle else ""
        raise AdapterError(
            f"{repository} holds no {WEIGHTS_NAME}{why}: weights are pulled as one safetensors file, as PEFT saves it."
        )
    fetch(own)
    taken = {within + file for file in own}
    return tuple(sorted(file for file in held if file not in taken and not file.startswith(".")))


def _adapter_within(repository: str, files: list[str]) -> str:
    """Where in a repository the adapter lies: ``""``, or ``"folder/"`` if there is one in it that holds an adapter.

    Raises:
        AdapterError: there is none, or more than one.
    """
    places = [file.removesuffix(CONFIG_NAME) for file in files if PurePosixPath(file).name == CONFIG_NAME]
    if "" in places:
        return ""
    places = [place for place in places if place.count("/") == 1 and not place.startswith(".")]
    if not places:
        raise AdapterError(f"{repository} holds no {CONFIG_NAME}: it is no PEFT adapter.")
    if len(places) > 1:
        names = ", ".join(place[:-1] for place in sorted(places)[:5])
        raise AdapterError(
            f"{repository} holds several adapters ({names}): fetch it with 'hf download', and import them one by one."
        )
    return places[0]


def _pickled(file: str) -> bool:
    return PurePosixPath(file).suffix.lower() in PICKLE_SUFFIXES


def _own_files(folder: Path) -> dict[str, Path]:
    """What is pushed of a stored adapter, by name."""
    recorded = read_manifest(folder).files if has_manifest(folder) else ()
    return {file: path for file, path in adapter_files(folder) if belongs(file, recorded)}


def _check_card(folder: Path, name: str) -> None:
    """Refuse a card that the hub can't read."""
    try:
        if (folder / CARD_NAME).is_file():
            (folder / CARD_NAME).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise AdapterError(
            f"The {CARD_NAME} of {name} is no UTF-8 text, which the hub asks for: save it as UTF-8, or delete it."
        ) from error


def _looked_at(api: Any, repository: str) -> Any:
    """What the hub says of a repository; None where there is none that it shows."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return api.model_info(repository)
    except RepositoryNotFoundError:
        return None


def _check_place(repository: str, files: list[str], is_private: bool | None, private: bool) -> None:
    """Refuse a repository that holds something else, or that others see than was asked for."""
    others = [file for file in files if not _HUBS_OWN.fullmatch(file)]
    if others and CONFIG_NAME not in files:
        raise AdapterError(
            f"{repository} is there already and holds no adapter but {others[0]}, which stays as it is: choose another "
            "repository."
        )
    if private and is_private is False:
        raise AdapterError(
            f"{repository} is there already, and everybody can see it: add --public if they may, or choose another."
        )
    if not private and is_private:
        raise AdapterError(
            f"{repository} is there already, and private: leave --public out, and open it in its settings on the hub."
        )


def _repository(place: str) -> str:
    """``user/name``, also of the address that a browser shows and :func:`push` returns.

    Raises:
        AdapterError: it is neither.
    """
    from huggingface_hub import constants

    repository = place.removeprefix(f"{constants.ENDPOINT}/").rstrip("/")
    if not _REPO_ID.fullmatch(repository):
        raise AdapterError(f"{place!r} is no repository of the hub (user/name) and no folder.")
    return repository


@contextmanager
def _in_one_sentence(what: str, export: bool = False) -> Iterator[None]:
    """Say what the hub's client raises (network, rights, quota) in one sentence; our own errors pass."""
    try:
        yield
    except AsuLoraError:
        raise
    except Exception as error:
        raise AdapterError(f"{what}: {_reason(error, export)}") from error


def _reason(error: Exception, export: bool) -> str:
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
        return _refusal(next(each for each in chain if isinstance(each, errors.HfHubHTTPError)))
    # By name: which HTTP library the hub's client stands on changes with its versions.
    names = {kind.__name__ for each in chain for kind in type(each).__mro__}
    if names & {"TransportError", "ConnectionError", "TimeoutError", "LocalEntryNotFoundError"}:
        way_out = "'asu-lora adapters export' makes an archive instead" if export else "try again later"
        return f"the hub can't be reached ({way_out})."
    said = str(error).strip() or type(error).__name__
    return f"{said.splitlines()[0].rstrip('.')}."


def _refusal(error: Any) -> str:
    """What the hub answered, with the way out where there is one."""
    status = getattr(error.response, "status_code", None) or 0
    way_out = _WAYS_OUT.get(status) or (_WAYS_OUT[429] if status >= 500 else None)
    return f"the hub refused with {status}; {way_out}." if way_out else f"the hub refused ({first_line(error)})."
