"""What an unfinished audit has found so far: a file an attack, numbers only, so that it goes on where it stopped.

The parts lie hidden where the result will: in the adapter store, in the merged folder, or for a plain base in the
folder one is in. Their folder's name is a keyed hash of everything that decides the figures. Records, which hold text,
are written only into the folder that the person named.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ValidationError

from asu_lora.adapters.manifest import fingerprint_of
from asu_lora.adapters.request_key import KEY_NAME, keyed, make_key, read_key
from asu_lora.adapters.store import AdapterStore
from asu_lora.audit.request import AuditRequest
from asu_lora.audit.results import SCHEMA_VERSION, AttackResult
from asu_lora.audit.row_attack import Found
from asu_lora.audit.session import Session
from asu_lora.bases.source import resolve_base
from asu_lora.data.examples import Example
from asu_lora.files import discard, disk_errors, read_json, write_atomic
from asu_lora.models.adapter_stack import adapter_folders
from asu_lora.version import __version__

FOLDER = ".audits"
KEPT_DAYS = 30  # what an audit left that long ago says too little of today's program and attacks


@dataclass(frozen=True)
class Parts:
    """The parts of one audit.

    Attributes:
        folder: where they lie; None where nothing may be written.
        records: where text goes, if anywhere.
    """

    folder: Path | None
    records: Path | None = None

    def read(self, attack: str) -> Found | None:
        """What an attack found before; None where it wasn't finished, or what it left can't be read."""
        if self.folder is None or (self.records is not None and not (self.records / f"{attack}.jsonl").is_file()):
            return None
        try:
            part = read_json(self.folder / f"{attack}.json")
            result = AttackResult.model_validate(part["result"])
            values = {
                role: {figure: {int(row): value for row, value in each.items()} for figure, each in figures.items()}
                for role, figures in part["values"].items()
            }
            started = part.get("started")
        except (OSError, ValueError, ValidationError, LookupError, TypeError, AttributeError):
            return None
        found = Found(result, values)
        found.started = started if isinstance(started, str) else None
        return found

    def write(self, attack: str, found: Found) -> None:
        """Keep what an attack found.

        Raises:
            StoreError: the disk refuses.
        """
        if self.records is not None:
            with disk_errors(self.records, "folder"):
                lines = [json.dumps(record, ensure_ascii=False) for record in found.records]
                write_atomic(self.records / f"{attack}.jsonl", "".join(line + "\n" for line in lines))
        if self.folder is not None:
            part = {"result": found.result.model_dump(mode="json"), "values": found.values, "started": found.started}
            with disk_errors(self.folder, "folder"):
                self.folder.mkdir(parents=True, exist_ok=True)
                write_atomic(self.folder / f"{attack}.json", json.dumps(part))

    def remove(self) -> None:
        """The audit is whole: its parts are no longer needed; the key neither, where it was made for them."""
        if self.folder is None:
            return
        discard(self.folder)
        place = self.folder.parent
        if place.is_dir() and {path.name for path in place.iterdir()} <= {KEY_NAME}:
            discard(place)


def parts_of(request: AuditRequest, session: Session) -> Parts:
    """The place of this audit's parts; another request, model, setting or version has another."""
    inputs = session.inputs
    identity = {
        "schema": SCHEMA_VERSION,
        "version": __version__,
        "rows": [_keys(rows) for rows in (inputs.forget, inputs.retain, inputs.floor, inputs.tune_on)],
        "paraphrases": asdict(inputs.paraphrases),
        "extra": [repr(sorted(example.extra.items(), key=str)) for example in (*inputs.forget, *inputs.floor)],
        "models": _models(request, session),
        "rows_written": repr(session.models.candidate.rows),
        "effort": repr(session.effort),
        "seed": session.settings.seed,
        "records": request.records is not None,
    }
    if inputs.insisting:
        identity["insisting"] = [asdict(way) for way in inputs.insisting]
    if inputs.retain_log:
        identity["retain_log"] = inputs.retain_log
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    records = Path(request.records) if request.records else None
    # keyed, so that the folder's name confirms no guess of the rows
    if request.adapters:
        store = AdapterStore(request.store)
        with disk_errors(store.root):
            _drop_old(store.root / FOLDER)
            return Parts(store.root / FOLDER / keyed_name(store.keyed(digest)), records)
    place = Path(request.merged or ".") / FOLDER
    try:
        place.mkdir(exist_ok=True)
        _drop_old(place)
        return Parts(place / keyed_name(keyed(digest, read_key(place) or make_key(place))), records)
    except OSError:  # merged weights that nobody may write beside are audited all the same, in one go
        return Parts(None, records)


def _drop_old(place: Path) -> None:
    """Delete what audits left that nobody went on with."""
    for folder in place.iterdir() if place.is_dir() else ():
        if folder.is_dir() and not folder.is_symlink() and time.time() - folder.stat().st_mtime > KEPT_DAYS * 86_400:
            discard(folder)


def keyed_name(key: str) -> str:
    """A folder's name from a keyed hash."""
    return key.rpartition(":")[2][:32]


def _keys(examples: Sequence[Example]) -> list[tuple[str, ...]]:
    return [example.key() for example in examples]


def _models(request: AuditRequest, session: Session) -> dict[str, object]:
    """Every model by its role: a control is not the second adapter of a stack."""
    candidate = session.models.candidate
    control = [request.control] if request.control else []
    return {
        "base": candidate.base.source.fingerprint(),
        "precision": candidate.base.precision,
        "adapters": _weights(adapter_folders(request.adapters, request.store, fit=True)),
        "control": _weights(adapter_folders(control, request.store)),
        "ceiling": resolve_base(request.base).fingerprint() if request.merged else None,
        "floor": resolve_base(str(request.floor_base)).fingerprint() if request.floor_base else None,
    }


def _weights(folders: Sequence[tuple[Path, float]]) -> list[str]:
    return [f"{fingerprint_of(folder)}:{weight}" for folder, weight in folders]
