"""A redo log for changes of the store that take more than one file operation.

One rename is atomic by itself. Replacing an adapter takes two, and renaming one also rewrites the manifests
that name it. Such a change is first written down whole, then done, then struck out. Whoever next takes the
store's lock and finds a journal finishes the change: every step can be repeated without harm.
"""

import json
import os
from pathlib import Path

from asu_lora.errors import StoreError
from asu_lora.files import fsync_path, write_atomic

JOURNAL_NAME = ".journal"


class Journal:
    """The steps of one change below ``root``, all paths relative to it. Use under the store's lock."""

    def __init__(self, root: Path):
        self.root = root
        self.path = root / JOURNAL_NAME
        self.steps: list[dict[str, str]] = []

    def move(self, source: str, destination: str) -> None:
        self.steps.append({"move": source, "to": destination})

    def write(self, path: str, text: str) -> None:
        self.steps.append({"write": path, "text": text})

    def commit(self) -> None:
        """Write the steps down, do them, strike them out. From the first write on the change is certain."""
        write_atomic(self.path, json.dumps(self.steps))
        self._carry_out()

    def recover(self) -> None:
        """Finish the change of a process that died in the middle of it, if there is one.

        Raises:
            StoreError: the journal can't be understood; nothing is touched then.
        """
        # what a process left that died while it wrote the journal down: nothing of that change was begun
        for left in self.root.glob(f".{JOURNAL_NAME}.*"):
            left.unlink(missing_ok=True)
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        try:
            self.steps = json.loads(text)
        except ValueError as error:
            raise StoreError(f"{self.path} is damaged: look at the store by hand, then delete it.") from error
        self._carry_out()

    def _carry_out(self) -> None:
        for step in self.steps:
            if "move" in step:
                source, destination = self.root / step["move"], self.root / step["to"]
                # Done already, if the source is gone or the destination taken (then a later step filled
                # the source's place again).
                if os.path.lexists(source) and not os.path.lexists(destination):
                    os.rename(source, destination)
            elif (target := self.root / step["write"]).parent.is_dir():
                write_atomic(target, step["text"])
        fsync_path(self.root)
        self.path.unlink()
        fsync_path(self.root)
