"""The demonstration: an earlier adapter is replaced by one that is there. Its answers are those of `make demo`."""

import pytest

from asu_lora.adapters.store import AdapterStore
from asu_lora.demo.harry_potter import run_demo, set_aside
from asu_lora.errors import StoreError
from tests.support.adapter_folders import add, files_of


def test_an_adapter_goes_once_another_is_there_and_comes_back_where_none_was_made(tmp_path):
    store = AdapterStore(tmp_path)
    with set_aside(store, "a"):
        assert store.names() == []
    add(store, "a", seed=1)
    add(store, "a-earlier-1", seed=2)  # of a run that was killed
    before = files_of(store.root)
    for failure in (StoreError, KeyboardInterrupt):
        with pytest.raises(failure), set_aside(store, "a"):
            assert store.names() == ["a-earlier-1", "a-earlier-2"]
            raise failure("stopped")
        assert files_of(store.root) == before
    with set_aside(store, "a"):
        made = add(store, "a", seed=3).fingerprint
    assert store.names() == ["a", "a-earlier-1"] and store.get("a").fingerprint == made


def test_without_replace_a_taken_name_is_refused_before_anything_is_loaded(tmp_path):
    add(AdapterStore(tmp_path), "a")
    with pytest.raises(StoreError, match="a"):
        run_demo(tmp_path, "a")
