"""What an unfinished run leaves in the store: checkpoints that are made of a request's text."""

import json
from contextlib import suppress

from asu_lora.adapters.store import AdapterStore
from asu_lora.requests.ledger.ledger import Ledger
from asu_lora.requests.ledger.states import TRAINING

FOLDER = ".runs"  # asu_lora.forgetting.run_folder.RUNS, without the imports behind it


def remove_leftovers(store: AdapterStore, request: str) -> None:
    """Remove a request's checkpoints and the record of its run, if there are any."""
    folder = store.root / FOLDER / request
    if folder.exists():
        from asu_lora.forgetting.run_folder import remove_run

        remove_run(folder)


def has_leftovers(ledger: Ledger, store: AdapterStore, request: str) -> bool:
    """Whether there are any, and they are this request's: a forget run may have been called like it since."""
    folder = store.root / FOLDER / request
    if not ((folder / "run.json").exists() or any(folder.glob("checkpoint-*"))):
        return False
    told = None
    with suppress(OSError, ValueError, AttributeError):
        told = json.loads((folder / "run.json").read_text()).get("request")
    return told is None or told in {line.payload.get("request") for line in ledger.history(request, [TRAINING])}
