"""What one process needs to work on requests: ledger, vault, store, and the base, loaded once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from asu_lora.adapters.store import AdapterStore
from asu_lora.config import ForgetConfig
from asu_lora.data.request import ForgetRequest
from asu_lora.models.loading import LoadedBase, load_base
from asu_lora.requests.key import find_key
from asu_lora.requests.ledger.claims import Worker
from asu_lora.requests.ledger.ledger import Ledger, open_ledger
from asu_lora.requests.ledger.states import QUEUED, TRAINED, TRAINING
from asu_lora.requests.runner.settings import Places, RunSettings
from asu_lora.requests.text_vault import RequestText, TextVault


@dataclass(frozen=True)
class AuditTask:
    """One adapter to audit.

    Attributes:
        adapters: names in the store, all active; the audited one is the last.
        request: its rows.
        base: what the adapters belong to, loaded.
    """

    adapters: tuple[str, ...]
    request: ForgetRequest
    store: AdapterStore
    base: LoadedBase
    config: ForgetConfig


# what an audit found, numbers only; it goes into the ledger as it is
AuditStep = Callable[[AuditTask], dict[str, Any]]


@dataclass
class Workshop:
    """One process at work.

    Attributes:
        audit: how an adapter is audited; None where nothing here can.
    """

    places: Places
    settings: RunSettings
    ledger: Ledger
    vault: TextVault
    store: AdapterStore
    worker: Worker = field(default_factory=Worker.here)
    audit: AuditStep | None = None

    @classmethod
    def open(
        cls, places: Places, settings: RunSettings, *, audit: AuditStep | None = None, runner: str = ""
    ) -> "Workshop":
        """Open ledger and vault; the base waits until there is something to do.

        Raises:
            LedgerError: there is no ledger, or it can't be reached.
            KeyFault: no key, or another than the texts are sealed with.
        """
        vault = TextVault(find_key(places.key_file).secret)
        ledger = open_ledger(places.store, places.address, actor=places.actor, seal=vault.seal)
        with ledger.database.reading() as connection:
            vault.check_key(connection)
        step = audit if settings.audit else None
        return cls(places, settings, ledger, vault, AdapterStore(places.store), Worker.here(runner), step)

    @cached_property
    def base(self) -> LoadedBase:
        """The base, loaded the first time it is asked for.

        Raises:
            BaseModelError: it can't be.
        """
        config = self.settings.config
        return load_base(
            self.settings.base, config.precision, config.device, trust_remote_code=config.trust_remote_code
        )

    @property
    def claimable(self) -> tuple[str, ...]:
        """The states in which there is something left to do."""
        return (QUEUED, TRAINING, TRAINED) if self.audit else (QUEUED, TRAINING)

    def text(self, request: str) -> RequestText:
        """A request's rows, opened.

        Raises:
            KeyFault, LedgerError: as :meth:`TextVault.get`.
        """
        with self.ledger.database.reading() as connection:
            return self.vault.get(connection, request)
