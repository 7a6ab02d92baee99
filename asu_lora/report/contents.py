"""Everything that the page shows, gathered from the store and its ledger; nothing is computed on a model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from asu_lora.adapters.manifest import StackedOn, utc_now
from asu_lora.adapters.store import AdapterStore
from asu_lora.adapters.stored_adapter import StoredAdapter
from asu_lora.audit.certificate.record import CERTIFICATE_NAME
from asu_lora.audit.results import AUDIT_NAME
from asu_lora.report.certificates import KnownCertificate, is_changed, known_certificates


@dataclass(frozen=True)
class KnownAdapter:
    """An adapter of the store and where it stands.

    Attributes:
        certificates: of these weights, oldest first.
        contents: what a combined adapter is the sum of.
        contained_in: combined adapters and certified merged folders that it is in.
        missing: adapters that it was trained on top of and that are gone.
    """

    adapter: StoredAdapter
    certificates: Sequence[KnownCertificate] = ()
    contents: Sequence[StackedOn] = ()
    contained_in: Sequence[str] = ()
    missing: Sequence[str] = ()

    @property
    def name(self) -> str:
        return self.adapter.name

    @property
    def certificate(self) -> KnownCertificate | None:
        """The newest of it, or None."""
        return self.certificates[-1] if self.certificates else None

    def figures(self, name: str) -> tuple[float | None, float | None]:
        """One of its manifest's figures before and after."""
        manifest = self.adapter.manifest
        if manifest is None:
            return None, None
        values = (manifest.figures.before.get(name), manifest.figures.after.get(name))
        before, after = (float(v) if isinstance(v, int | float) else None for v in values)
        return before, after


@dataclass(frozen=True)
class StoreContents:
    """The whole store at one moment."""

    name: str
    at: str
    adapters: Sequence[KnownAdapter]
    certificates: Sequence[KnownCertificate]
    problems: Sequence[str] = field(default=())


def gather(store: AdapterStore, progress: Callable[[int], None] = lambda count: None) -> StoreContents:
    """Look at every adapter and certificate.

    Of weights those that have a certificate in force or no manifest are read, once, for their hash.

    Args:
        progress: called with 1 for each certificate that was read.

    Raises:
        StoreError: the store can't be read.
    """
    listed = store.list()
    certificates, problems = known_certificates(store, progress)
    inside = {adapter.name: contents_of(adapter) for adapter in listed}
    holders = _holders(inside, certificates)
    prints = {adapter.name: adapter.fingerprint for adapter in listed if not adapter.broken}
    present = set(prints.values())
    adapters = [
        KnownAdapter(
            adapter,
            [_now(store, adapter, c) for c in certificates if is_of(c, prints.get(adapter.name))],
            inside[adapter.name],
            sorted(holders.get(prints.get(adapter.name, ""), set()) - {adapter.name}),
            [b.name for b in (adapter.manifest.on_top_of if adapter.manifest else ()) if b.fingerprint not in present],
        )
        for adapter in listed
    ]
    return StoreContents(store.root.resolve().name, utc_now(), adapters, certificates, problems)


def contents_of(adapter: StoredAdapter) -> list[StackedOn]:
    """What is inside an adapter; empty for one that was trained."""
    return adapter.manifest.method.contents() if adapter.manifest else []


def is_of(known: KnownCertificate, fingerprint: str | None) -> bool:
    """Whether a certificate is of the adapter with this fingerprint (None: a broken one), alone or on top of others."""
    done = known.certificate.done
    return done.merged is None and bool(done.adapters) and done.adapters[-1].fingerprint == fingerprint


def _now(store: AdapterStore, adapter: StoredAdapter, known: KnownCertificate) -> KnownCertificate:
    """A certificate, held against the adapter as it lies there."""
    in_force = known.newest and not known.certificate.expired()
    changed = in_force and is_changed(store, adapter.path, known.certificate.done.adapters[-1])
    return replace(known, ended=_ended(adapter), changed=changed)


def _ended(adapter: StoredAdapter) -> bool:
    """Whether its certificate was taken out of its folder: its last audit is not passed."""
    return (adapter.path / AUDIT_NAME).is_file() and not (adapter.path / CERTIFICATE_NAME).is_file()


def _holders(inside: dict[str, list[StackedOn]], certificates: Sequence[KnownCertificate]) -> dict[str, set[str]]:
    """{fingerprint: what it is in}."""
    found: dict[str, set[str]] = {}
    for name, entries in inside.items():
        for entry in entries:
            found.setdefault(entry.fingerprint, set()).add(name)
    for known in certificates:
        if known.certificate.done.merged is not None:
            for adapter in known.certificate.done.adapters:
                found.setdefault(adapter.fingerprint, set()).add(
                    f"a merged folder (certificate {known.certificate.serial})"
                )
    return found
