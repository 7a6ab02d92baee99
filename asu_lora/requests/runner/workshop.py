"""What one process needs to work on requests: ledger, vault, store, and the base, loaded once."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from asu_lora.adapters.store import AdapterStore
from asu_lora.config import ForgetConfig
from asu_lora.data.request import ForgetRequest
from asu_lora.models.loading import LoadedBase, load_base
from asu_lora.progress import Progress
from asu_lora.requests.key import find_key
from asu_lora.requests.ledger.claims import Worker
from asu_lora.requests.ledger.home import must_be_home
from asu_lora.requests.ledger.ledger import Ledger, open_ledger
from asu_lora.requests.ledger.states import QUEUED, TEXT_DESTROYED, TRAINED, TRAINING, Request
from asu_lora.requests.results import ResultStore
from asu_lora.requests.runner.audit_policy import AuditPolicy
from asu_lora.requests.runner.settings import Places, RunSettings
from asu_lora.requests.text_vault import RequestText, TextVault
from asu_lora.teacher.kept_states import KeptStates


@dataclass(frozen=True)
class AuditTask:
    """One adapter to audit.

    Attributes:
        adapters: names in the store, all active; the audited one is the last.
        request: its rows.
        base: what the adapters belong to, loaded.
        policy: how hard it is attacked, and beside which floor.
        limit: the most knowledge that may come back; None for no limit.
        progress: hears of each attack.
    """

    adapters: tuple[str, ...]
    request: ForgetRequest
    store: AdapterStore
    base: LoadedBase
    config: ForgetConfig
    policy: AuditPolicy = field(default_factory=AuditPolicy)
    limit: float | None = None
    progress: Progress = field(default_factory=Progress)


# What an audit found, numbers only; it goes into the ledger as it is. "over" says that it was more than the limit,
# "unjudged" that nothing could be held against it.
AuditStep = Callable[[AuditTask], dict[str, Any]]


@dataclass
class Workshop:
    """One process at work.

    Attributes:
        audit: how an adapter is audited; None where nothing here can.
        results: where finished adapters are published; None for the store alone.
        kept: what was read of the rows to keep, which come again from request to request.
    """

    places: Places
    settings: RunSettings
    ledger: Ledger
    vault: TextVault
    store: AdapterStore
    worker: Worker = field(default_factory=Worker.here)
    audit: AuditStep | None = None
    results: ResultStore | None = None
    kept: KeptStates = field(default_factory=lambda: KeptStates(retain_alone=True))

    @classmethod
    def open(
        cls, places: Places, settings: RunSettings, *, audit: AuditStep | None = None, runner: str = ""
    ) -> "Workshop":
        """Open ledger and vault; the base waits until there is something to do.

        Raises:
            LedgerError: there is no ledger, it can't be reached, or it is another store's.
            KeyFault: no key, or another than the texts are sealed with.
        """
        vault = TextVault(find_key(places.key_file).secret)
        ledger = open_ledger(places.store, places.address, actor=places.actor, seal=vault.seal)
        with ledger.database.reading() as connection:
            vault.check_key(connection)
        store = AdapterStore(places.store)
        results = ResultStore(places.results) if places.results else None
        if results is None:  # else each machine may have a store of its own
            must_be_home(ledger, store)
        step = audit if settings.audit else None
        return cls(places, settings, ledger, vault, store, Worker.here(runner), step, results)

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

    def publish(self, name: str) -> dict[str, str]:
        """Put an adapter of the store at the address, if there is one; what the ledger says of it.

        Raises:
            StoreError: the address refuses.
        """
        if self.results is None:
            return {}
        with self.store.snapshot(name) as folder:
            self.results.publish(folder, name)
        return {"published": self.results.address}

    def bring(self, requests: Iterable[Request]) -> None:
        """Fetch from the address what other machines trained and this store has not, or has as it was once refused.

        What is at neither place is left out: it is named at the end of the run, and holds up no other.

        Raises:
            StoreError: the address can't be reached, or what is there is not what was trained.
        """
        if self.results is None:
            return
        there = set(self.store.names())
        trained: dict[str, list[str]] = {}
        for line in self.ledger.history(events=[TRAINED]):
            trained.setdefault(str(line.request), []).append(line.payload["fingerprint"])
        for request in requests:
            name, made = request.adapter, trained.get(request.id, [])
            if name is None:
                continue
            if name in there and len(set(made)) > 1 and self._is_outdated(name, made):
                self.store.remove(name)
                there.remove(name)
            if name not in there and self.results.find(name) is not None:
                self.results.fetch(name, self.store, made[-1])

    def _is_outdated(self, name: str, made: Sequence[str]) -> bool:
        """Whether an adapter is one of a request's earlier ones, and not the last that was made of it."""
        manifest = self.store.get(name).manifest
        return manifest is not None and manifest.fingerprint in made and manifest.fingerprint != made[-1]

    def audit_task(
        self, adapters: tuple[str, ...], request: ForgetRequest, progress: Progress | None = None
    ) -> AuditTask:
        """What an audit of the last of these adapters is told."""
        told, heard = self.settings, progress or Progress()
        return AuditTask(adapters, request, self.store, self.base, told.config, told.policy, told.limit, heard)

    @property
    def claimable(self) -> tuple[str, ...]:
        """The states in which there is something left to do."""
        return (QUEUED, TRAINING, TRAINED) if self.audit else (QUEUED, TRAINING)

    def names(self, *requests: str) -> set[str]:
        """What a sentence may call by its name: these requests, the store's adapters, the base."""
        base = self.settings.base
        return {*requests, *self.store.names(), base, Path(base).name}

    def waiting(self) -> list[Request]:
        """The requests for which there is something left to do and that still have their text, in their order."""
        return [each for each in self.ledger.requests(self.claimable) if each.text != TEXT_DESTROYED]

    def text(self, request: str) -> RequestText:
        """A request's rows, opened.

        Raises:
            KeyFault, LedgerError: as :meth:`TextVault.get`.
        """
        with self.ledger.database.reading() as connection:
            return self.vault.get(connection, request)
