"""What an unfinished run leaves in the store: checkpoints that are made of a request's text."""

from asu_lora.adapters.store import AdapterStore

FOLDER = ".runs"  # asu_lora.forgetting.run_folder.RUNS, without the imports behind it


def remove_leftovers(store: AdapterStore, request: str) -> None:
    """Remove a request's checkpoints and the record of its run, if there are any."""
    folder = store.root / FOLDER / request
    if folder.exists():
        from asu_lora.forgetting.run_folder import remove_run

        remove_run(folder)
