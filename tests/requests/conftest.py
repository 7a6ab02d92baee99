"""A ledger in SQLite and one in Postgres: what holds for one holds for both."""

import itertools
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from asu_lora.requests.key import ENVIRONMENT, new_key
from asu_lora.requests.ledger.ledger import Ledger, open_ledger
from asu_lora.requests.text_vault import TextVault
from tests.support import postgres

NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def postgres_server():
    if reason := postgres.why_not():
        pytest.skip(reason)
    # not in pytest's own folder: each session closes that to others, and so to the server's user
    with TemporaryDirectory(prefix="postgres-") as folder, postgres.running(Path(folder)) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def address(request):
    """None for the store's own SQLite file; else a new database of the server."""
    if request.param == "sqlite":
        return None
    return request.getfixturevalue("postgres_server").new_database(f"ledger{next(NUMBERS)}")


@pytest.fixture
def vault() -> TextVault:
    return TextVault(bytes(range(32)))


@pytest.fixture
def ledger(address, tmp_path, vault) -> Ledger:
    return open_ledger(tmp_path / "store", address, actor="tester", seal=vault.seal, create=True)


@pytest.fixture
def queue(tmp_path, tiny_base, monkeypatch):
    from tests.support.request_queue import Queue  # the runner's imports take seconds

    monkeypatch.setenv(ENVIRONMENT, new_key())
    return Queue(tmp_path, tiny_base)
