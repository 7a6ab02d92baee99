"""Trainings under a launcher: in processes of their own that end with the claim, their faults told as one sentence."""

import shlex
import socket
import sys
import time
from pathlib import Path

import psutil
import pytest

from asu_lora.errors import NotEnoughMemory, SettingError, TrainingError
from asu_lora.progress import Progress
from asu_lora.requests.ledger.claims import Claim, LostClaim
from asu_lora.requests.ledger.states import Request
from asu_lora.requests.runner.heartbeat import Heartbeat
from asu_lora.requests.runner.launch import LaunchFault, launcher, train_launched
from asu_lora.requests.runner.settings import Places, RunSettings


class LosesItsClaim(Heartbeat):
    """Its claim is lost as soon as a file is there."""

    file: Path

    def check(self):
        if self.file.is_file():
            self.lost.set()
        super().check()


def launch(tmp_path, script: str, kind: type[Heartbeat] = Heartbeat) -> None:
    """A launcher that is a script of ours; it finds the job as a launched training would."""
    file = tmp_path / "launcher.py"
    file.write_text(
        "import json, os, sys\nfrom pathlib import Path\nassert sys.argv[1] == '-m'\n"
        f"job = json.loads(os.environ['ASU_LORA_LAUNCHED'])\nanswers = Path(job['answers'])\n{script}"
    )
    beats = kind(None, Claim(Request("T-1", "training", "", "", ""), "token"), Progress())
    settings = RunSettings("base", audit=False, launch=shlex.join([sys.executable, str(file)]))
    train_launched(Places(tmp_path), settings, "T-1", tmp_path / "T-1", False, beats)


def test_the_words_of_a_launcher_are_those_of_a_shell_and_accelerate_is_our_own():
    assert launcher("accelerate launch --num_processes 2")[0] == sys.executable
    assert launcher("'/opt/my launcher' -n 2") == ["/opt/my launcher", "-n", "2"]
    for text, said in (("", "is empty"), ("'torchrun", "can't be read")):
        with pytest.raises(LaunchFault, match=said):
            launcher(text)
    with pytest.raises(SettingError, match="add --no-audit"):
        RunSettings(launch="torchrun")


def test_a_launcher_that_starts_no_training_ends_the_run_and_not_the_request(tmp_path):
    with pytest.raises(LaunchFault, match=r"started no training \(exit code 3\)"):
        launch(tmp_path, "sys.exit(3)")
    with pytest.raises(LaunchFault, match="can't start /nowhere/launcher"):
        settings = RunSettings("base", audit=False, launch="/nowhere/launcher")
        beats = Heartbeat(None, Claim(Request("T-1", "training", "", "", ""), "token"), Progress())
        train_launched(Places(tmp_path), settings, "T-1", tmp_path / "T-1", False, beats)


def test_what_a_launched_training_answers_is_raised_as_it_was(tmp_path):
    answer = "(answers / '1.begun').touch()\n(answers / '1.json').write_text(json.dumps(%r))\nsys.exit(1)"
    with pytest.raises(NotEnoughMemory, match=r"^No room\.$"):
        launch(tmp_path, answer % {"error": "NotEnoughMemory", "said": "No room."})
    with pytest.raises(TrainingError, match=r"^Unexpected: KeyError\.$"):
        launch(tmp_path, answer % {"error": "os", "said": "Unexpected: KeyError."})


def test_a_launched_training_that_was_killed_or_made_nothing_is_told(tmp_path):
    begun = "(answers / '0.begun').touch()\n"
    for end, code in (("os.kill(os.getpid(), 9)", -9), ("", 0)):
        with pytest.raises(TrainingError, match=f"exit code {code} and without a word"):
            launch(tmp_path, begun + end)
    launch(tmp_path, begun + "Path(job['places']['store'], 'T-1').mkdir()")
    assert not list(Path("/tmp").glob("asu-lora-*/0.begun"))


def test_a_process_that_hangs_once_its_adapter_is_whole_holds_nothing_up(tmp_path, monkeypatch):
    monkeypatch.setattr("asu_lora.requests.runner.launch.GRACE", 0.5)
    launch(tmp_path, "Path(job['places']['store'], 'T-1').mkdir()\nimport time\ntime.sleep(99)")


def test_no_process_outlives_a_claim_that_was_lost(tmp_path, monkeypatch):
    script = (
        f"import subprocess\nchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])\n"
        f"Path({str(tmp_path / 'new')!r}).write_text(str(child.pid))\n"
        f"os.rename({str(tmp_path / 'new')!r}, {str(tmp_path / 'child')!r})\nimport time\ntime.sleep(99)"
    )
    monkeypatch.setattr(LosesItsClaim, "file", tmp_path / "child", raising=False)
    with pytest.raises(LostClaim):
        launch(tmp_path, script, LosesItsClaim)
    child = int((tmp_path / "child").read_text())
    until = time.monotonic() + 20
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.slow
def test_a_request_is_trained_by_two_processes_under_accelerate(queue, monkeypatch):
    for name, value in (("OMP_NUM_THREADS", "1"), ("GLOO_SOCKET_IFNAME", "lo"), ("HF_HUB_OFFLINE", "1")):
        monkeypatch.setenv(name, value)
    queue.add("a")
    words = (
        f"accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no "
        f"--num_cpu_threads_per_process 1 --main_process_port {free_port()}"
    )
    report = queue.run(launch=words)
    assert [(o.request, o.state, o.trained) for o in report.outcomes] == [("a", "trained", True)], report.outcomes
    assert queue.store.verify("a").ok and queue.ledger.verify().whole
    assert queue.events("a") == ["received", "queued", "training", "trained"]
