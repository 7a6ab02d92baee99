"""A store with three adapters, in a home of its own."""

from pathlib import Path

import pytest

from asu_lora.adapters.store import AdapterStore
from tests.support.adapter_folders import add, on, write_lora


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASU_LORA_STORE", raising=False)
    return tmp_path


@pytest.fixture
def store(home) -> AdapterStore:
    """Two adapters, one on top of the other, and a plain LoRA, in the default store."""
    store = AdapterStore("adapters")
    add(store, "harry", seed=1)
    add(store, "ron", seed=2, on_top_of=[on(store, "harry", 0.5)])
    write_lora(store.root / "plain", seed=3)
    return store
