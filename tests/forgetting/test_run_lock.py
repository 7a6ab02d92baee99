"""One run of a name at a time."""

import subprocess
import sys

import pytest
from accelerate import PartialState
from filelock import FileLock

from asu_lora.errors import StoreError, TrainingError
from asu_lora.forgetting.forget import forget
from asu_lora.forgetting.run_lock import run_lock
from asu_lora.models.loading import load_base
from tests.support.tiny_run import tiny_request, tiny_settings

HOLD = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_run_of_a_name_is_refused_until_the_first_one_is_gone(tiny_base, tmp_path):
    base = load_base(str(tiny_base), "fp32", "cpu")
    runs = tmp_path / ".runs"
    (runs / "tiny").mkdir(parents=True)
    (runs / "tiny" / "run.json").write_text("of the first run")
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(runs / "tiny.lock")], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(TrainingError, match="Another run of the name 'tiny' is at work"):
            forget(tiny_request(), base, tiny_settings(epochs=1), store=tmp_path)
        assert (runs / "tiny" / "run.json").read_text() == "of the first run"
    finally:
        first.kill()
        first.wait()
        first.stdout.close()
    result = forget(tiny_request(), base, tiny_settings(epochs=1), store=tmp_path)
    assert (result.path / "adapter_model.safetensors").is_file() and not runs.exists()


def test_other_names_run_beside_it_and_every_process_hears_of_a_disk_that_refuses(tmp_path):
    here = PartialState(cpu=True)
    runs = tmp_path / ".runs"
    with run_lock(runs, "a", here), run_lock(runs, "b", here):
        with pytest.raises(TrainingError, match="'a'"), run_lock(runs, "a", here):
            pass
        assert FileLock(runs / "a.lock").lock_file in {str(path) for path in runs.iterdir()}
    assert not runs.exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Not a directory"), run_lock(tmp_path / "file" / ".runs", "a", here):
        pass
