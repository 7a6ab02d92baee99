"""A claim kept alive while its work is done, and the work stopped once the claim is lost."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Any

from asu_lora.errors import LedgerError
from asu_lora.progress import Progress, Relay
from asu_lora.requests.ledger import claims
from asu_lora.requests.ledger.claims import Claim, LostClaim
from asu_lora.requests.ledger.ledger import Ledger

BEATS = 4  # in the time of a lease


class Heartbeat(Relay):
    """The progress of a run under a claim: it hears of everything, and ends the run when the claim is lost."""

    def __init__(self, ledger: Ledger, claim: Claim, heard: Progress):
        super().__init__(heard)
        self.ledger, self.claim = ledger, claim
        self.stopped, self.lost = Event(), Event()
        self.until = time.monotonic() + claims.LEASE_SECONDS

    def beat(self) -> None:
        """Extend the lease until told to stop; a ledger that is away for moments is asked again."""
        while not self.stopped.wait(claims.LEASE_SECONDS / BEATS):
            began = time.monotonic()
            try:
                claims.extend(self.ledger, self.claim)
                self.until = began + claims.LEASE_SECONDS
            except LostClaim:
                self.lost.set()
            except LedgerError:
                if time.monotonic() > self.until:
                    self.lost.set()

    def check(self) -> None:
        """Raises:
        LostClaim: somebody else has the request by now.
        """
        if self.lost.is_set():
            raise LostClaim(f"The request {self.claim.request.id} is in other hands by now, or was withdrawn.")

    def stage(self, name: str, total: int | None = None) -> None:
        self.check()
        super().stage(name, total)

    def advance(self, amount: int = 1, **values: Any) -> None:
        self.check()
        super().advance(amount, **values)


@contextmanager
def heartbeat(ledger: Ledger, claim: Claim, heard: Progress) -> Iterator[Heartbeat]:
    """Hold the claim for as long as the block lasts."""
    beats = Heartbeat(ledger, claim, heard)
    thread = Thread(target=beats.beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield beats
    finally:
        beats.stopped.set()
        with suppress(RuntimeError):
            thread.join()
