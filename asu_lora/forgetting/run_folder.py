"""The folder of an unfinished run: its checkpoints, and what tells that run from another."""

import hashlib
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import PreTrainedTokenizerBase

from asu_lora.adapters.store import AdapterStore
from asu_lora.data.chat_template import pinned_date
from asu_lora.errors import OtherRun
from asu_lora.files import disk_errors
from asu_lora.forgetting.run_record import RunRecord
from asu_lora.models.frozen_adapters import FrozenAdapters
from asu_lora.training.checkpoints import last_checkpoint
from asu_lora.training.phases import ON_POLICY_FOLDER

RUNS = ".runs"  # beside the adapters of the store
COLUMNS, READING = "columns", "reading"
NEWER = (COLUMNS, READING)  # which runs of earlier versions lack


def run_folder(
    store: AdapterStore,
    name: str,
    record: RunRecord,
    *,
    idk: list[str],
    resume: bool,
    process: PartialState,
    beneath: FrozenAdapters,
) -> Path:
    """The folder of this run's checkpoints; a resumed run must be the run that was interrupted.

    Raises:
        OtherRun: what was interrupted was another run.
        StoreError: the disk refuses.
    """
    folder = store.root / RUNS / name
    request = record.request.fingerprint()
    identity = {
        "base": record.fingerprint,
        READING: record.base.source.reading(),
        "idk": hashlib.sha256(json.dumps(idk).encode()).hexdigest(),
        "config": record.config.identity(),
        "precision": record.base.precision,
        "processes": process.num_processes,
        "ground": beneath.identity(),
        COLUMNS: store.keyed(record.request.columns_fingerprint()),
    }
    if paraphrases := record.request.paraphrases:
        identity["paraphrases"] = store.keyed(paraphrases.fingerprint())  # keyed: a wording can be guessed
    kept = folder / "run.json"
    found = resume and kept.is_file()
    if found and not _same_run(kept.read_text(), identity, request, store):
        raise OtherRun(
            f"The interrupted run '{name}' was made with other settings, base or request, or on top of "
            "other adapters: give the same ones, or leave --resume out to start anew."
        )
    process.wait_for_everyone()  # all have looked
    if process.is_main_process:
        if not found:
            remove_run(folder)
        with disk_errors(store.root):
            folder.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(identity | {"request": store.keyed(request)}, sort_keys=True))
    process.wait_for_everyone()
    return folder


def _same_run(text: str, identity: dict[str, Any], request: str, store: AdapterStore) -> bool:
    """Whether a run's file is of this run; one of an earlier version names its request by a plain hash."""
    try:
        found = json.loads(text)
        recorded = str(found.pop("request"))
    except (ValueError, AttributeError, KeyError, TypeError):
        return False
    known = {key: value for key, value in identity.items() if key in found or key not in NEWER}
    return found == json.loads(json.dumps(known)) and store.is_request(recorded, request)


def date_of_rows(
    store: AdapterStore, name: str, tokenizer: PreTrainedTokenizerBase, wanted: str | None, resume: bool
) -> str | None:
    """The date that the rows of a run are written with: the wanted one, the interrupted run's, or today's.

    None where the template writes none, and for a run that began before dates were recorded.
    """
    begun = None
    with suppress(OSError, ValueError, KeyError, TypeError):
        begun = json.loads((store.root / RUNS / name / "run.json").read_text())["config"] if resume else None
    recorded = begun.get("template_date") if isinstance(begun, dict) else None
    day = pinned_date(tokenizer, wanted or recorded)
    return None if begun is not None and not (wanted or recorded) else day


def can_be_resumed(store: str | Path, name: str) -> bool:
    """Whether an interrupted run of this name got through an epoch, so that there is something to go on from."""
    folder = AdapterStore(store).root / RUNS / name
    return bool(last_checkpoint(folder) or last_checkpoint(folder / ON_POLICY_FOLDER))


def remove_run(folder: Path) -> None:
    """Remove a run's checkpoints; what a logger wrote beside them (``--report-to tensorboard``) stays."""
    for checkpoint in (*folder.glob("checkpoint-*"), *folder.glob(f"{ON_POLICY_FOLDER}/checkpoint-*")):
        shutil.rmtree(checkpoint, ignore_errors=True)
    (folder / "run.json").unlink(missing_ok=True)
    with suppress(OSError):  # not there
        (folder / ON_POLICY_FOLDER).rmdir()
    with suppress(OSError):  # not empty, or gone
        folder.rmdir()
        folder.parent.rmdir()
