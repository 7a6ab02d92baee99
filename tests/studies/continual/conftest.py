"""A history of three requests, and one that has been stacked."""

import pytest

from asu_lora.models.loading import load_base
from asu_lora.studies.continual.history import run_history
from asu_lora.studies.continual.steps import read_steps
from tests.support.history import write
from tests.support.tiny_run import FACTS, rows, tiny_settings


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A history of three requests, two questions each, in one file; all facts to keep, the requests' among them."""
    tmp_path = tmp_path_factory.mktemp("history")
    history = [row | {"ticket": f"Zorba {i // 2}"} for i, row in enumerate(rows(FACTS[:6]))]
    return write(tmp_path / "history.jsonl", history), write(tmp_path / "keep.jsonl", rows())


@pytest.fixture(scope="session")
def steps(files):
    return read_steps([files[0]], files[1], "ticket")


@pytest.fixture(scope="session")
def stacked(taught_base, steps, tmp_path_factory):
    """The folder of a history that has been stacked."""
    folder, base = tmp_path_factory.mktemp("stacked"), load_base(str(taught_base), "fp32", "cpu")
    run_history(steps, base, tiny_settings(lr=5e-3, teacher="stack"), folder)
    return folder
