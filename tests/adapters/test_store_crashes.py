"""The store when the disk refuses, and when processes are killed at any moment."""

import builtins
import os
import signal
import subprocess
import sys

import pytest
from safetensors.numpy import load_file

from asu_lora.adapters.manifest import WEIGHTS_NAME
from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import StoreError
from tests.support.adapter_folders import add, empty_store, factors, files_of, in_memory, leftovers, on

tmp_path, store = in_memory, empty_store


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_store_can_be_read_and_says_so_when_changed(store):
    add(store, "a")
    store.root.chmod(0o500)
    try:
        assert store.get("a").state == "ready"
        with pytest.raises(StoreError, match="can't be changed: Permission denied"):
            store.remove("a")
    finally:
        store.root.chmod(0o700)


def test_a_store_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "adapters").write_text("no folder")
    store = AdapterStore(tmp_path / "adapters")
    for attempt in (store.list, lambda: store.stage("a").__enter__()):
        with pytest.raises(StoreError, match="can't be"):
            attempt()


def test_a_full_disk_is_one_sentence_and_changes_nothing(store, monkeypatch):
    add(store, "a")
    before = files_of(store.root)

    def full(path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("asu_lora.adapters.store.fsync_tree", full)
    with pytest.raises(StoreError, match="No space left on device"):
        add(store, "b")
    assert files_of(store.root) == before


def test_a_journal_that_a_killed_process_had_half_written_is_swept_away_by_the_next(store):
    add(store, "a")
    script = (
        "import os, signal, sys\n"
        "from asu_lora.adapters.store import AdapterStore\n"
        "os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)\n"
        "AdapterStore(sys.argv[1]).rename('a', 'b')\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(store.root)], timeout=120)
    assert killed.returncode == -signal.SIGKILL and list(store.root.glob("..journal.*"))
    store.rename("a", "c")
    assert store.names() == ["c"] and not list(store.root.glob("..journal.*"))


def test_what_a_killed_process_staged_is_swept_away_by_the_next(store):
    script = (
        "import os, signal, sys\n"
        "from asu_lora.adapters.store import AdapterStore\n"
        "with AdapterStore(sys.argv[1]).stage('a') as folder:\n"
        "    (folder / 'half').write_text('written')\n"
        "    print('staged', flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(store.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout.readline() == b"staged\n"
    with pytest.raises(StoreError, match="being made by another process"):
        store.check_name("a")
    with store.scratch():
        assert any(entry.startswith("a-") for entry in leftovers(store)), "a living process's folder stays"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdin.close()
    child.stdout.close()
    assert any(entry.startswith("a-") for entry in leftovers(store))
    add(store, "a")
    assert store.names() == ["a"]
    assert leftovers(store) == []


@pytest.mark.parametrize("change", ["add", "replace", "rename", "remove"])
def test_a_change_killed_at_any_step_is_undone_or_finished(tmp_path, change):
    """Real SIGKILLs, one before each file operation that a change makes, until none of them hits any more."""
    steps = 0
    while True:
        store = AdapterStore(tmp_path / f"{change}-{steps}")
        add(store, "a", seed=1)
        add(store, "b", seed=2, on_top_of=[on(store, "a")])
        add(store, "c", seed=3)
        seeds_before = {"a": 1, "b": 2, "c": 3}
        seeds_after, act = {
            "add": (seeds_before | {"d": 4}, lambda store=store: add(store, "d", seed=4)),
            "replace": (seeds_before | {"a": 4}, lambda store=store: add(store, "a", seed=4, replace=True)),
            "rename": ({"z": 1, "b": 2, "c": 3}, lambda store=store: store.rename("a", "z")),
            "remove": ({"a": 1, "b": 2}, lambda store=store: store.remove("c")),
        }[change]
        killed = killed_before_operation(steps, act)
        found = {adapter.name: load_file(adapter.path / WEIGHTS_NAME) for adapter in store.list()}
        outcomes = [seeds for seeds in (seeds_before, seeds_after) if holds(found, seeds)]
        assert outcomes, f"killed before operation {steps}: the store holds {sorted(found)}"
        assert killed or outcomes == [seeds_after]
        for name in found:
            assert store.verify(name).ok, (steps, name, store.verify(name).problems)
        if change == "rename":
            assert store.get("b").manifest.on_top_of[0].name == ("z" if "z" in found else "a")
        add(store, "next", seed=5)
        assert leftovers(store) == []
        assert not (store.root / ".journal").exists()
        if not killed:
            break
        steps += 1
    assert steps > {"add": 8, "replace": 10, "rename": 10, "remove": 3}[change]


def holds(found: dict, seeds: dict[str, int]) -> bool:
    """Whether the store holds just these names, each with the weights of its seed."""
    return found.keys() == seeds.keys() and all(
        (found[name][key] == value).all() for name, seed in seeds.items() for key, value in factors(seed).items()
    )


def killed_before_operation(number: int, act) -> bool:
    """Run ``act`` in a forked process that gets SIGKILL before its file operation of that number."""
    child = os.fork()
    if child == 0:
        try:
            count = 0

            def counted(operation):
                def call(*args, **kwargs):
                    nonlocal count
                    if count == number:
                        os.kill(os.getpid(), signal.SIGKILL)
                    count += 1
                    return operation(*args, **kwargs)

                return call

            for name in ("rename", "replace", "fsync", "mkdir", "unlink", "rmdir"):
                setattr(os, name, counted(getattr(os, name)))
            builtins.open = counted(open)
            act()
            os._exit(0)
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_a_journal_that_makes_no_sense_is_not_acted_on(store):
    add(store, "a")
    (store.root / ".journal").write_text("not json")
    with pytest.raises(StoreError, match="damaged"):
        store.list()
    assert (store.root / "a").is_dir()
