"""The examples in docstrings of the Python interface run as they are printed, on the tiny base."""

import doctest

import pytest

import asu_lora
from asu_lora.audit.run import audit

SHOWN = (asu_lora.forget, asu_lora.AdapterStore, audit)  # in this order: the later look at what the first made


@pytest.fixture(scope="module")
def names(taught_base, tmp_path_factory):
    """What the examples take for given: a base and a folder for the store."""
    return {"base": str(taught_base), "folder": tmp_path_factory.mktemp("examples") / "adapters"}


def examples_of(shown):
    finder = doctest.DocTestFinder(recurse=False, exclude_empty=True)
    return [found for found in finder.find(shown, shown.__name__) if found.examples]


@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: shown.__name__)
def test_an_example_runs_as_it_is_printed(shown, names, monkeypatch):
    monkeypatch.setenv("ASU_LORA_CACHE", str(names["folder"].parent / "cache"))
    [found] = examples_of(shown)
    told = []
    found.globs = names  # what one example makes the next one uses
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    result = runner.run(found, out=told.append, clear_globs=False)
    assert result.attempted >= 5 and not result.failed, "".join(told)
