"""The same queue over Ray: workers in processes of their own, one of them killed in the middle."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import psutil
import pytest

from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import NotEnoughMemory, SettingError
from asu_lora.requests.engines.gpu_share import gpu_share
from asu_lora.requests.intake import Details, Files, add
from asu_lora.requests.key import ENVIRONMENT, find_key, new_key
from asu_lora.requests.ledger.database import has_password
from asu_lora.requests.ledger.ledger import open_ledger
from asu_lora.requests.runner.run import Engine
from asu_lora.requests.text_vault import TextVault
from tests.support.tiny_run import FACTS, rows

SETTINGS = "--precision fp32 --device cpu --epochs 3 --batch-size 1 --eval-rows 0 --tau 3 --rank 4 --no-audit".split()
# the second death over a request is one too many: while Ray starts the worker anew, none may be counted
ONE_DEATH_IS_ONE = (
    "from asu_lora.requests.engines import ray; ray.MOST_DEATHS = 2; from asu_lora.cli import main; main()"
)
RAY = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray, pip install 'asu-lora[ray]'")


def test_a_worker_takes_the_share_of_a_card_that_its_request_needs():
    assert gpu_share(10 << 30, 80 << 30) == 0.13 and gpu_share(80 << 30, 80 << 30) == 1.0
    with pytest.raises(NotEnoughMemory, match="needs .* and the card has"):
        gpu_share(81 << 30, 80 << 30)


@pytest.mark.parametrize(
    "words", [{"name": "slurm"}, {"workers": 0, "name": "ray"}, {"workers": 2}, {"address": "auto"}]
)
def test_an_engine_that_makes_no_sense_is_refused(words):
    with pytest.raises(SettingError):
        Engine(**words)


def test_an_address_with_a_password_is_told_from_one_without():
    assert has_password("postgresql://u:p@h/d") and not has_password("postgresql://u@h/d")


@RAY
@pytest.mark.slow
def test_a_queue_goes_through_ray_and_a_killed_worker_loses_nothing(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, new_key())
    store, vault = tmp_path / "store", TextVault(find_key().secret)
    ledger = open_ledger(store, create=True)
    for number, fact in enumerate(FACTS[:4]):
        (tmp_path / "row.jsonl").write_text(json.dumps(rows([fact])[0]))
        details = Details("2999-01-01T00:00:00Z")
        add(ledger, vault, f"r{number}", Files(str(tmp_path / "row.jsonl")), details, store=AdapterStore(store))
    (tmp_path / "row.jsonl").unlink()
    place = os.path.realpath(f"/tmp/r{os.getpid()}")  # short: a socket's path has 107 characters at most
    command = [sys.executable, "-c", ONE_DEATH_IS_ONE, "requests", "run", "--base", str(tiny_base)]
    command += ["--store", str(store)]
    environment = os.environ | {"RAY_TMPDIR": place}
    run = subprocess.Popen(
        [*command, *SETTINGS, "--engine", "ray", "--workers", "1"], env=environment, stderr=subprocess.PIPE, text=True
    )
    while not ledger.counts().get("training"):
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.05)
    below = psutil.Process(run.pid).children(recursive=True)
    workers = [process for process in below if " ".join(process.cmdline()).startswith("ray::RequestWorker")]
    assert len(workers) == 1 and os.path.isdir(place)
    workers[0].send_signal(signal.SIGKILL)
    assert run.wait() == 0, run.stderr.read()
    run.stderr.close()
    assert AdapterStore(store).names() == ["r0", "r1", "r2", "r3"]
    assert sum(request.attempts for request in ledger.requests()) == 5  # one of them was begun twice
    assert [len(ledger.history(f"r{n}", ["trained"])) for n in range(4)] == [1] * 4 and ledger.verify().whole
    words = [word.encode() for name, does in FACTS[:4] for word in (name, does)]
    for folder in (place, str(tmp_path)):
        for parent, _, files in os.walk(folder):
            for file in files:
                path = os.path.join(parent, file)
                if os.path.isfile(path):
                    with open(path, "rb") as stream:
                        content = stream.read()
                    assert not [word for word in (*words, os.environ[ENVIRONMENT].encode()) if word in content], path
