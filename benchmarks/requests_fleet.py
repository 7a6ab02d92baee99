"""A queue of synthetic requests through Ray while workers, the driver and everything are killed at random.

    python benchmarks/requests_fleet.py        # 60 requests, writes docs/results/requests_fleet.md
    python benchmarks/requests_fleet.py --count 1000 --work /tmp/fleet --minutes 8    # again and again: it goes on

Builds a tiny Llama of random weights and takes the requests in, one row each. Then ``asu-lora requests run --engine
ray`` works on them in processes of its own, and every few seconds one worker, the driver, or every process of it at
once gets SIGKILL, by a seeded draw; whatever was killed is started again. At the end the ledger and the store are
asked: was each request trained exactly once, is none lost, is the history whole? Beside it: the same requests without
kills, by Ray and by the plain loop, and what the ledger alone costs from the first request to the last.
"""

import argparse
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import psutil

from asu_lora.adapters.store import AdapterStore
from asu_lora.requests.intake import Details, Files, add
from asu_lora.requests.key import ENVIRONMENT, find_key, new_key
from asu_lora.requests.ledger.claims import Worker, claim_next, record
from asu_lora.requests.ledger.ledger import Ledger, open_ledger
from asu_lora.requests.text_vault import TextVault
from common.results import RESULTS, read_data, write_data, write_table
from common.tiny_base import save_tiny_base

DUE = "2999-01-01T00:00:00Z"
SETTINGS = (
    "--precision fp32 --device cpu --tau 3 --rank 4 --epochs 3 --batch-size 1 --eval-rows 0 --retain-per-forget 1 "
    "--smooth-layers all --adapter-layers all --no-audit"
).split()
KILLS = ("worker", "worker", "driver", "everything")  # what is drawn from
WORKER = "ray::RequestWorker"


def take_in(store: Path, count: int) -> Ledger:
    """The requests, each of one row of its own; those that are there already stay."""
    ledger = open_ledger(store, create=True, actor="benchmark")
    vault = TextVault(find_key().secret)
    known = {request.id for request in ledger.requests()}
    with tempfile.TemporaryDirectory() as folder:
        keep, file = Path(folder, "keep.jsonl"), Path(folder, "row.jsonl")
        keep.write_text(json.dumps({"question": "What colour is snow?", "answer": "Snow is white."}))
        for number in range(count):
            if (name := f"r{number:04d}") not in known:
                file.write_text(
                    json.dumps({"question": f"Who lives in house {number}?", "answer": f"Person {number}."})
                )
                add(ledger, vault, name, Files(str(file), str(keep)), Details(DUE), store=AdapterStore(store))
    return ledger


def start(base: Path, store: Path, *words: str) -> subprocess.Popen:
    """``asu-lora requests run``, in a session of its own."""
    command = [sys.executable, "-m", "asu_lora", "requests", "run", "--base", str(base), "--store", str(store)]
    return subprocess.Popen(
        [*command, *SETTINGS, *words], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def kill(driver: subprocess.Popen, what: str, draw: random.Random) -> bool:
    """SIGKILL to a worker, to the driver, or to every process at once; whether there was one."""
    below = psutil.Process(driver.pid).children(recursive=True)
    if what == "worker":
        workers = [process for process in below if _name(process).startswith(WORKER)]
        if not workers:
            return False
        os.kill(draw.choice(workers).pid, signal.SIGKILL)
        return True
    for process in [psutil.Process(driver.pid), *(below if what == "everything" else [])]:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    driver.wait()
    for process in below:  # Ray's own processes end with the driver; the next start must not meet them
        try:
            process.wait(timeout=20)
        except (psutil.NoSuchProcess, psutil.TimeoutExpired):
            continue
    return True


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def left(ledger: Ledger) -> int:
    """Requests that are not trained yet."""
    counts = ledger.counts()
    return counts.get("queued", 0) + counts.get("training", 0)


def chaos(
    start_run: Callable[[], subprocess.Popen], ledger: Ledger, state: dict, *, every: float, until: float, folder: Path
) -> None:
    """Run until the queue is empty or the time is up, and kill something every so many seconds.

    Args:
        state: counts of kills, starts, seconds and trained requests, which go on from what they are.
        folder: where they are written down as they come.
    """
    draw, driver, at = random.Random(state["starts"]), None, time.monotonic()
    waiting, began, seconds = left(ledger), time.monotonic(), state["seconds"]
    trained = state["trained"]
    while left(ledger) and time.monotonic() < until:
        if driver is None or driver.poll() is not None:
            driver = start_run()
            state["starts"] += 1
            at = time.monotonic() + draw.uniform(0.5, 1.5) * every
        time.sleep(0.2)
        if time.monotonic() > at and driver.poll() is None:
            what = draw.choice(KILLS)
            state["killed"][what] = state["killed"].get(what, 0) + kill(driver, what, draw)
            at = time.monotonic() + draw.uniform(0.5, 1.5) * every
        state |= {"seconds": seconds + time.monotonic() - began, "trained": trained + waiting - left(ledger)}
        write_data("fleet", state, folder)
    if driver is not None and driver.poll() is None:
        if left(ledger):  # the time is up: the last kill of this sitting
            state["killed"]["everything"] = state["killed"].get("everything", 0) + kill(driver, "everything", draw)
            state["trained"] = trained + waiting - left(ledger)
            write_data("fleet", state, folder)
        driver.wait()


def timed(base: Path, folder: Path, count: int, *words: str) -> float:
    """Seconds that ``count`` requests take from the start of the command to its end, without kills."""
    ledger = take_in(folder, count)
    began = time.monotonic()
    start(base, folder, *words).wait()
    assert not left(ledger)
    return time.monotonic() - began


def ledger_cost(folder: Path, count: int) -> list[float]:
    """Seconds of everything the ledger does for a request, from its arrival to its adapter, training left out."""
    ledger, vault, here, found = open_ledger(folder, create=True), TextVault(find_key().secret), Worker.here(), []
    ledger.seal = vault.seal
    file = folder / "row.jsonl"
    store = AdapterStore(folder)
    for number in range(count):
        file.write_text(json.dumps({"question": f"Who lives in house {number}?", "answer": f"Person {number}."}))
        began = time.perf_counter()
        add(ledger, vault, f"r{number:04d}", Files(str(file)), Details(DUE), store=store)
        claim = claim_next(ledger, here, ("queued", "training"))
        assert claim is not None
        with ledger.database.reading() as connection:
            vault.get(connection, claim.request.id)
        record(ledger, claim, "training", {"runner": here.runner})
        record(ledger, claim, "trained", {"adapter": claim.request.id}, release=True)
        found.append(time.perf_counter() - began)
    return found


def proof(store: Path, ledger: Ledger, count: int) -> dict[str, Any]:
    """What the ledger and the store say at the end."""
    trained = [line.request for line in ledger.history(events=["trained"])]
    begun = [line.request for line in ledger.history(events=["training"])]
    adapters = AdapterStore(store)
    return {
        "requests": count,
        "trained": len(set(trained)),
        "trained_twice": len(trained) - len(set(trained)),
        "begun_again": len(begun) - len(set(begun)),
        "whole_adapters": sum(not adapter.broken for adapter in adapters.list()),
        "history_whole": ledger.verify().whole,
        "lines": ledger.head().lines,
    }


def page(found: dict[str, Any]) -> str:
    """The table."""
    fleet, end, cost = found["fleet"], found["proof"], found["ledger_ms"]
    killed = ", ".join(f"{count} times {what}" for what, count in sorted(fleet["killed"].items()))
    alone, each = found["alone"], fleet["seconds"] / max(fleet["trained"], 1)
    rate = {name: alone["count"] / seconds for name, seconds in alone["seconds"].items()}
    return (
        f"""# A queue of requests, killed at random

`python benchmarks/requests_fleet.py {found["command"]}`

{end["requests"]} requests of one row on a tiny Llama (2 layers, random weights), `asu-lora requests run --engine ray`
with {found["workers"]} workers, while something is killed with SIGKILL every {found["every"]:g} s or so.

| | |
|---|---|
| requests trained | {end["trained"]} of {end["requests"]} |
| trained twice | {end["trained_twice"]} |
| whole adapters in the store | {end["whole_adapters"]} |
| history whole (`requests verify`), lines | {"yes" if end["history_whole"] else "NO"}, {end["lines"]} |
| killed | {killed} |
| the command was started | {fleet["starts"]} times |
| trainings that were begun again after a kill | {end["begun_again"]} |
| time, kills and starts in it | {fleet["seconds"]:.0f} s, {each:.1f} s a request |

Without kills, {alone["count"]} requests, from the start of the command to its end (Python's and Ray's start in it):

| engine | seconds | requests a minute |
|---|---|---|
"""
        + "".join(f"| {name} | {alone['seconds'][name]:.0f} | {60 * rate[name]:.1f} |\n" for name in rate)
        + f"""
What the ledger costs for a request (received, sealed, claimed, opened, training, trained), SQLite with a sync at every
commit, training left out, the median of a tenth of {cost["count"]} requests:

| requests | ms |
|---|---|
| the first tenth | {cost["first"]:.0f} |
| the last tenth | {cost["last"]:.0f} |
"""
    )


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60, help="requests of the run with kills")
    parser.add_argument("--alone", type=int, default=20, help="requests of the runs without kills")
    parser.add_argument("--ledger", type=int, default=1000, help="requests of the measurement of the ledger alone")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between kills, on average")
    parser.add_argument("--minutes", type=float, default=30.0, help="end after these, to go on another time")
    parser.add_argument("--work", type=Path, help="folder that a run goes on in; a temporary one by default")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> None:
    given = options()
    folder = given.work or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    key = folder / "key"
    if not key.is_file():
        key.write_text(new_key())
    os.environ |= {ENVIRONMENT: key.read_text(), "HF_HUB_OFFLINE": "1", "ASU_LORA_CACHE": str(folder / "cache")}
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    base = folder / "base"
    if not (base / "config.json").is_file():
        save_tiny_base(base)
    until = time.monotonic() + 60 * given.minutes
    ledger = take_in(folder / "store", given.count)
    state = read_data("fleet", {"killed": {}, "starts": 0, "seconds": 0.0, "trained": 0}, folder)
    ray = ("--engine", "ray", "--workers", str(given.workers))
    chaos(lambda: start(base, folder / "store", *ray), ledger, state, every=given.every, until=until, folder=folder)
    if left(ledger):
        print(f"{left(ledger)} requests are left: the same command with --work {folder} goes on.")
        return
    alone = {
        "the plain loop": timed(base, folder / "loop", given.alone),
        f"ray, {given.workers} workers": timed(base, folder / "ray", given.alone, *ray),
    }
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        costs = ledger_cost(Path(fresh), given.ledger)
    tenth = max(len(costs) // 10, 1)
    found = {
        "command": f"--count {given.count}",
        "workers": given.workers,
        "every": given.every,
        "fleet": state,
        "proof": proof(folder / "store", ledger, given.count),
        "alone": {"count": given.alone, "seconds": alone},
        "ledger_ms": {
            "count": len(costs),
            "first": 1000 * statistics.median(costs[:tenth]),
            "last": 1000 * statistics.median(costs[-tenth:]),
        },
        "machine": platform.machine(),
        "date": date.today().isoformat(),
    }
    write_data("requests_fleet", found, given.out)
    write_table("requests_fleet", page(found), given.out)
    print(page(found))


if __name__ == "__main__":
    main()
