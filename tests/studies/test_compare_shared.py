"""asu-lora compare in several processes: a run that another one makes is left to it, and made again if it is gone."""

import pytest
from filelock import FileLock

from asu_lora.data.request import ForgetRequest
from asu_lora.studies.compare.compare import compare
from asu_lora.studies.compare.grid import Run
from asu_lora.studies.compare.questions import comparison_sets
from asu_lora.studies.methods import method
from tests.support.listener import Listener
from tests.support.tiny_run import FACTS, rows, tiny_settings

REQUEST = ForgetRequest.from_rows(rows(FACTS[:3]), rows(FACTS[6:]), "tiny")
SETS = comparison_sets(REQUEST, most=2)[0]
SETTINGS = tiny_settings(own_words=0.0, epochs=1, batch_size=3)
RUNS = [Run(method(name), 1e-3) for name in ("NPO_GD", "GA_GD")]


@pytest.fixture(scope="module")
def out(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared") / "out"
    compare(REQUEST, base, SETS, RUNS, folder, SETTINGS)
    return folder


@pytest.mark.parametrize("finishes", [True, False])
def test_the_run_of_another_process_is_waited_for(base, out, monkeypatch, finishes):
    """Both runs are made; of the other process's the file appears in the end, or never."""
    theirs, mine = (out / "runs" / f"{run.name}.json" for run in RUNS)
    text, heard, slept = theirs.read_text(), Listener(), []
    theirs.unlink()
    mine.unlink()
    held = FileLock(out / "runs" / f".{RUNS[0].name}.lock")
    held.acquire()

    def what_the_other_does(seconds):
        """It works on; then it is done, or killed."""
        slept.append(list(heard.notes))
        if len(slept) == 3:
            if finishes:
                theirs.write_text(text)
            held.release()

    monkeypatch.setattr("asu_lora.studies.compare.sharing.time.sleep", what_the_other_does)
    made = compare(REQUEST, base, SETS, RUNS, out, SETTINGS, progress=heard)
    assert {result.method for result in made.results if result.done} == {"NPO_GD", "GA_GD"}
    assert len(slept) == 3 and "Run 2 of 2: GA_GD" in slept[0][0]
    assert not any("Run 1 of 2" in note for note in slept[-1])
    assert sum("Run 1 of 2: NPO_GD" in note for note in heard.notes) == (not finishes)
    assert "Waiting for another process, which makes 1 of the runs" in heard.stages
