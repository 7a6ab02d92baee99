"""Four real processes at work in one store, killed at random: nothing that was acknowledged is lost.

Each process writes down what it is about to do and, when the store has returned, that it is done. In the end,
and whenever a killed process is started again, the store has to hold what those lines say; only an operation
that was begun and not acknowledged may have happened or not.
"""

import json
import multiprocessing
import os
import random
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import pytest

from asu_lora.adapters.manifest import WEIGHTS_NAME
from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import StoreError
from tests.support.adapter_folders import factors, fill, folder_in_memory, on

PROCESSES, OPERATIONS, KILLS, SHARED = 4, 200, 20, 3


# ---- what a process does, and what the store has to hold after it


def after(state: dict[str, dict], operation: dict) -> dict[str, dict]:
    """The names of one process, {name: its seed and what it stands on}, after an operation on them."""
    state = {name: dict(entry) for name, entry in state.items()}
    kind, name = operation["do"], operation["name"]
    if kind in ("add", "replace", "import"):
        state[name] = {"seed": operation["seed"], "on": operation.get("on")}
    elif kind == "remove":
        del state[name]
    elif kind == "rename":
        state[operation["new"]] = state.pop(name)
        for entry in state.values():
            if entry["on"] == name:
                entry["on"] = operation["new"]
    return state


def replay(log: Path) -> tuple[dict[str, dict], dict | None, list[dict]]:
    """From a log: the state of a process's own names, the operation that was not acknowledged, and all
    operations on shared names as {do, name, acknowledged}."""
    state, pending, shared = {}, None, []
    for line in log.read_text().splitlines() if log.exists() else []:
        entry = json.loads(line)
        if "do" in entry:
            pending = entry
        elif entry["ended"] != "refused" and pending["name"].startswith("shared"):
            shared.append({**pending, "acknowledged": entry["ended"] == "done"})
            pending = None
        else:
            state = after(state, pending) if entry["ended"] == "done" else state
            pending = None
    return state, pending, shared


def holds(store: AdapterStore, state: dict[str, dict], prefix: str) -> bool:
    """Whether the names with a prefix are just those of a state, with their weights and references."""
    found = {adapter.name: adapter for adapter in store.list() if adapter.name.startswith(prefix)}
    return found.keys() == state.keys() and all(
        weights_are(found[name].path, entry["seed"])
        and [below.name for below in found[name].manifest.on_top_of] == ([entry["on"]] if entry["on"] else [])
        for name, entry in state.items()
    )


def weights_are(folder: Path, seed: int) -> bool:
    from safetensors.numpy import load_file

    found = load_file(folder / WEIGHTS_NAME)
    return all((found[key] == value).all() for key, value in factors(seed).items())


def choose(dice: random.Random, state: dict[str, dict], prefix: str) -> dict:
    """The next operation: mostly on own names, sometimes on one that all processes want."""
    seed = dice.randrange(1 << 40)
    if dice.random() < 0.2:
        shared = f"shared-{dice.randrange(SHARED)}"
        return {"do": dice.choice(["add", "remove"]), "name": shared, "seed": seed}
    free = f"{prefix}{dice.randrange(10**9)}"
    if not state or (len(state) < 5 and dice.random() < 0.4):
        below = dice.choice([None, *state])
        return {"do": "add", "name": free, "seed": seed, "on": below}
    name = dice.choice(sorted(state))
    return dice.choice(
        [
            {"do": "rename", "name": name, "new": free},
            {"do": "replace", "name": name, "seed": seed},
            {"do": "import", "name": free, "seed": seed},
            {"do": "remove", "name": name},
        ]
    )


def carry_out(store: AdapterStore, operation: dict, scratch: Path) -> None:
    kind, name = operation["do"], operation["name"]
    if kind in ("add", "replace"):
        below = [on(store, operation["on"])] if operation.get("on") else []
        # No look at what was stored: another process may have removed it by then.
        with store.stage(name, replace=kind == "replace") as folder:
            fill(folder, name, operation["seed"], below)
    elif kind == "remove":
        store.remove(name)
    elif kind == "rename":
        store.rename(name, operation["new"])
    elif kind == "import":
        from asu_lora.adapters.archive import pack

        folder = fill(scratch / f"{operation['seed']}", "elsewhere", operation["seed"])
        pack(folder, archive := scratch / f"{operation['seed']}.tar.gz", root="elsewhere")
        store.import_(archive, name)


def live(root: Path, log: Path, number: int, start: int) -> None:
    try:
        work(root, log, number, start)
    except BaseException:
        log.with_suffix(".error").write_text(traceback.format_exc())
        os._exit(1)


def work(root: Path, log: Path, number: int, start: int) -> None:
    """The life of one process: look whether the store holds what was acknowledged, then work until told."""
    store, prefix, dice = AdapterStore(root), f"p{number}-", random.Random(f"{number} {start}")
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(**entry) -> None:
        os.write(descriptor, (json.dumps(entry) + "\n").encode())

    state, pending, _ = replay(log)
    if pending and pending["name"].startswith("shared"):
        note(ended="unknown")
    elif pending:
        happened = holds(store, after(state, pending), prefix)
        assert happened or holds(store, state, prefix), f"neither done nor undone: {pending}"
        note(ended="done" if happened else "refused")
        state = after(state, pending) if happened else state
    else:
        assert holds(store, state, prefix), f"lost something of {state}"
    scratch = Path(tempfile.mkdtemp(dir=log.parent))
    while not (log.parent / "stop").exists():
        operation = choose(dice, state, prefix)
        note(**operation)
        try:
            carry_out(store, operation, scratch)
        except StoreError:
            assert operation["name"].startswith("shared"), "only a shared name can be refused"
            note(ended="refused")
            continue
        note(ended="done")
        if not operation["name"].startswith("shared"):
            state = after(state, operation)


# ---- the test


@pytest.fixture
def folder():
    with folder_in_memory() as folder:
        yield folder


def test_nothing_acknowledged_is_lost(folder):
    root, dice = folder / "adapters", random.Random(0)
    logs = [folder / f"log-{number}" for number in range(PROCESSES)]
    starts, kills = [0] * PROCESSES, 0
    store = AdapterStore(root)

    # Processes of their own, forked from one that has imported all they need: they start at once.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])

    def begin(number: int):
        starts[number] += 1
        process = processes.Process(target=live, args=(root, logs[number], number, starts[number]))
        process.start()
        return process

    def size(number: int) -> int:
        return logs[number].stat().st_size if logs[number].exists() else 0

    def done() -> int:
        return sum(log.read_text().count('"done"') for log in logs if log.exists())

    running, sizes = [begin(number) for number in range(PROCESSES)], [0] * PROCESSES
    deadline = time.monotonic() + 300  # about 6 seconds on an idle machine
    while (done() < OPERATIONS or kills < KILLS) and time.monotonic() < deadline:
        time.sleep(dice.uniform(0.01, 0.2))
        assert all(adapter.state == "ready" for adapter in store.list()), "seen half done from outside"
        if not all(process.is_alive() for process in running):
            break  # one fell by itself: said below
        number = dice.randrange(PROCESSES)
        if size(number) > sizes[number]:  # at work again since it was last killed
            running[number].kill()
            running[number].join()
            kills += 1
            sizes[number] = size(number)
            running[number] = begin(number)
    (folder / "stop").touch()
    for process in running:
        process.join(120)
    errors = [path.read_text() for path in folder.glob("*.error")]
    assert not errors and [process.exitcode for process in running] == [0] * PROCESSES, "\n".join(errors)
    assert done() >= OPERATIONS
    assert kills >= KILLS

    for number, log in enumerate(logs):
        state, pending, _ = replay(log)
        assert pending is None
        assert holds(store, state, f"p{number}-")
    operations = [operation for log in logs for operation in replay(log)[2]]
    assert any(operation["acknowledged"] for operation in operations)
    for shared in (f"shared-{number}" for number in range(SHARED)):
        counts = Counter((each["do"], each["acknowledged"]) for each in operations if each["name"] == shared)
        low = counts["add", True] - counts["remove", True] - counts["remove", False]
        high = counts["add", True] - counts["remove", True] + counts["add", False]
        present = int(shared in store.names())
        assert low <= present <= high, (shared, counts)
        assert not present or any(weights_are(store.get(shared).path, each["seed"]) for each in operations)
    assert all(store.verify(name).ok for name in store.names())
    with store.scratch():
        assert len(os.listdir(root / ".staging")) == 2, "only the folder just made and its lock"
