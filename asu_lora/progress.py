"""How the library tells what it is doing: it calls, whoever listens shows. By default nobody does."""

from typing import Any


class Progress:
    """A listener that ignores everything; the commands subclass it with a progress bar."""

    def stage(self, name: str, total: int | None = None) -> None:
        """A stage begins: ``total`` units of work, None if unknown. It ends when the next begins."""

    def advance(self, amount: int = 1, **values: Any) -> None:
        """Work was done; ``values`` are worth showing beside the bar (``loss=0.31``)."""

    def note(self, text: str) -> None:
        """Something a person should read, one sentence."""

    def close(self) -> None:
        """Everything is done, or has failed."""


class Relay(Progress):
    """Passes on to another what it hears, all but the end: whoever opened that one closes it."""

    def __init__(self, progress: Progress):
        self.progress = progress

    def stage(self, name: str, total: int | None = None) -> None:
        self.progress.stage(name, total)

    def advance(self, amount: int = 1, **values: Any) -> None:
        self.progress.advance(amount, **values)

    def note(self, text: str) -> None:
        self.progress.note(text)
