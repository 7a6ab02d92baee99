"""One training in several processes, under a launcher such as ``accelerate launch``.

The runner keeps the claim and writes the ledger. The launched processes open ledger and vault by themselves, train,
and put the adapter into the store. Nothing of a text goes through arguments, the environment or a file.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from asu_lora import errors
from asu_lora.errors import AsuLoraError, DataError, SettingError, TrainingError
from asu_lora.requests.runner.heartbeat import Heartbeat
from asu_lora.requests.runner.settings import Places, RunSettings

JOB = "ASU_LORA_LAUNCHED"  # the environment variable that tells a launched process what to do
MODULE = "asu_lora.requests.runner.launched"
GRACE = 20.0  # seconds that a launched training has to end in, once it is told to or has made its adapter


class LaunchFault(SettingError):
    """The launcher itself can't start: no request's fault."""


def launcher(text: str) -> list[str]:
    """The words of ``--launch``; ``accelerate`` and ``torchrun`` are taken from this Python's own environment.

    Raises:
        LaunchFault: nothing to start, or a quotation mark too few.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise LaunchFault(f"--launch '{text}' can't be read: {error}.") from error
    if not words:
        raise LaunchFault("--launch is empty: write it like 'accelerate launch --num_processes 2'.")
    own = {"accelerate": ["-m", "accelerate.commands.accelerate_cli"], "torchrun": ["-m", "torch.distributed.run"]}
    return [sys.executable, *own[words[0]], *words[1:]] if words[0] in own else words


def train_launched(
    places: Places, settings: RunSettings, request: str, adapter_is_there: Path, resume: bool, beats: Heartbeat
) -> None:
    """Train a claimed request under the launcher.

    Args:
        adapter_is_there: the folder that must be in the store afterwards.

    Raises:
        LaunchFault: the launcher could not start.
        LostClaim: the claim was lost; the processes are ended.
        AsuLoraError: what the training itself raised.
    """
    assert settings.launch is not None
    with TemporaryDirectory(prefix="asu-lora-") as folder:
        job = {
            "places": {**asdict(places), "store": str(places.store.absolute()), "key_file": _text(places.key_file)},
            "base": settings.base,
            "config": asdict(settings.config),
            "request": request,
            "resume": resume,
            "answers": folder,
        }
        beats.stage("Training under the launcher")
        with _started([*launcher(settings.launch), "-m", MODULE], os.environ | {JOB: json.dumps(job)}) as process:
            done_at = None
            while process.poll() is None:
                beats.check()
                if done_at is None and adapter_is_there.is_dir():
                    done_at = time.monotonic()
                if done_at is not None and time.monotonic() - done_at > GRACE:
                    break  # the adapter is whole in the store; a process that hangs afterwards holds nothing up
                time.sleep(0.2)
        if not adapter_is_there.is_dir():
            raise _fault(Path(folder), process.returncode, settings.launch)


def _fault(answers: Path, code: int, launch: str) -> AsuLoraError:
    """Why there is no adapter."""
    told = [json.loads(file.read_text()) for file in sorted(answers.glob("*.json"))]
    for answer in told:
        if answer["error"]:
            kind = getattr(errors, answer["error"], TrainingError)
            if kind is DataError:
                return DataError.plain(answer["said"])  # the process has left out what may not be kept
            return (kind if isinstance(kind, type) and issubclass(kind, AsuLoraError) else TrainingError)(
                answer["said"]
            )
    if not list(answers.glob("*.begun")):
        return LaunchFault(f"--launch '{launch}' started no training (exit code {code}): try it by hand.")
    return TrainingError(f"The launched training ended with exit code {code} and without a word: was it killed?")


@contextmanager
def _started(command: Sequence[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process with all that it starts; none of them outlives the block."""
    try:
        process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    except OSError as error:
        raise LaunchFault(f"--launch can't start {command[0]}: {error.strerror or error}.") from error
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=GRACE)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _text(path: Any) -> str | None:
    return None if path is None else str(Path(path).absolute())
