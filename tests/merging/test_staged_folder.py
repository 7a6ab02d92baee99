"""A merge that is killed leaves nothing for ever, and one that is done is on the disk before it has its name."""

import os
import signal
import subprocess
import sys
import time

import pytest

from asu_lora.errors import SettingError
from asu_lora.merging.checkpoint.staged_folder import staged_folder, sweep
from asu_lora.merging.merge import merge
from tests.support.lora_folders import save_lora

HOLD = """
import sys, time
from asu_lora.merging.checkpoint.staged_folder import staged_folder
with staged_folder(sys.argv[1]) as stage:
    (stage / "shard-0.part").write_bytes(b"x" * 1000)
    print(stage, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def held(tmp_path):
    """A process in the middle of writing ``out``."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip()
    yield process
    process.kill()
    process.wait()


def hidden(folder):
    return {path.name for path in folder.iterdir() if path.name.startswith(".")}


def test_what_a_killed_merge_left_is_removed_by_the_next(tiny_base, tmp_path, held):
    assert len(hidden(tmp_path)) == 2  # the folder and its lock
    held.send_signal(signal.SIGKILL)
    held.wait()
    lora = save_lora(tiny_base, tmp_path / "lora")
    merge(tiny_base, [(lora, 1.0)], tmp_path / "another")
    assert not hidden(tmp_path)


def test_what_a_living_merge_writes_is_left_alone(tmp_path, held):
    before = hidden(tmp_path)
    sweep(tmp_path)
    with staged_folder(tmp_path / "out") as stage:
        (stage / "file").write_text("whole")
        assert before < hidden(tmp_path)
    assert (tmp_path / "out" / "file").read_text() == "whole"
    assert hidden(tmp_path) == before


def test_only_what_a_merge_left_is_swept(tmp_path):
    """An earlier program left no lock: its folders go after a day, and nobody else's ever do."""
    long_ago = time.time() - 3 * 24 * 3600
    for name, files, age in (
        (".out.0123abcd", ["shard-0.part"], long_ago),
        (".out.89abcdef", ["shard-0.part"], time.time()),
        (".config.deadbeef", ["precious.txt"], long_ago),
        (".empty.deadbeef", [], long_ago),
        (".out.12345678x", ["shard-0.part"], long_ago),
    ):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text("x")
        os.utime(tmp_path / name, (age, age))
    sweep(tmp_path)
    assert hidden(tmp_path) == {".out.89abcdef", ".config.deadbeef", ".empty.deadbeef", ".out.12345678x"}


def test_everything_is_on_the_disk_before_the_folder_has_its_name(tiny_base, tmp_path, monkeypatch):
    """Each file and folder is synced before the rename, and the folder around them after it."""
    lora, heard = save_lora(tiny_base, tmp_path / "lora"), []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        heard.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def renamed(source, target):
        heard.append(("renamed", os.path.basename(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    merge(tiny_base, [(lora, 1.0)], tmp_path / "out")
    monkeypatch.undo()
    at = heard.index(("renamed", "out"))
    assert {path.name for path in (tmp_path / "out").iterdir()} <= set(heard[:at])
    assert any(str(name).startswith(".out.") for name in heard[:at])
    assert tmp_path.name in heard[at:]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match="can't be written"), staged_folder(tmp_path / "file" / "out"):
        pass
