"""The notebook runs from its first cell to its last, on the tiny base in place of SmolLM2."""

import os

import pytest

from tests.support.root import ROOT

FAST = 'epochs=1, precision="fp32", device="cpu", tau=3, smooth_layers="all", eval_rows=2'
NOTEBOOK = ROOT / "docs" / "notebooks" / "ten_minutes.ipynb"


def parameters(notebook):
    [cell] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    return cell


@pytest.fixture(scope="module")
def executed(taught_base, tmp_path_factory):
    """The notebook after it has run in a folder of its own, with the parameters of a run of seconds."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    parameters(notebook).source = f"BASE = {str(taught_base)!r}\nSETTINGS = dict({FAST})"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ASU_LORA_CACHE": str(folder / "cache")}
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    client.execute(env=environment)
    return notebook, folder


def test_every_cell_runs_and_the_adapter_is_made_and_taken_back(executed):
    notebook, folder = executed
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) >= 7 and all(cell.execution_count for cell in cells)
    assert (folder / "adapters").is_dir() and not (folder / "adapters" / "shakespeare").exists()
