"""``accelerate launch`` on two CPU processes: one adapter, the one that a single process makes of the same rows."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from asu_lora.cli import main
from tests.support.root import ROOT
from tests.support.tiny_run import FACTS, rows

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")

SETTINGS = {
    "precision": "fp32",
    "device": "cpu",
    "tau": 3.0,
    "smooth_layers": "all",
    "adapter_layers": "all",
    "rank": 4,
    "epochs": 2.0,
    "retain_per_forget": 2,
    "eval_rows": 5,
    "micro_batch_tokens": 200,  # several backward passes a step, not as many in each process
    # plain gradient descent: Adam would blow rounding up where a gradient is near zero
    "optimizer": "sgd",
    "lr": 0.1,
}


def forget(folder, base, name, processes, **changes):
    """The forget command, in this process if it is one; returns its weights and what it printed."""
    (folder / "forget.jsonl").write_text("\n".join(json.dumps(row) for row in rows(FACTS[:8])))
    (folder / "retain.jsonl").write_text("\n".join(json.dumps(row) for row in rows(FACTS[-4:])))
    config = folder / f"{name}.yaml"
    config.write_text(json.dumps(SETTINGS | changes))
    command = [
        "forget",
        str(folder / "forget.jsonl"),
        "--retain",
        str(folder / "retain.jsonl"),
        "--base",
        str(base),
        "--name",
        name,
        "--store",
        str(folder / "store"),
        "--config",
        str(config),
    ]
    if processes == 1:
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.output[-3000:]
        return load_file(folder / "store" / name / "adapter_model.safetensors"), done
    # "--multi_gpu" stands for several processes; with "--cpu" accelerate starts a single one unless there is MPI
    launch = [
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        str(processes),
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--num_cpu_threads_per_process",
        "1",
        "--main_process_port",
        str(free_port()),
    ]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, *launch, "-m", "asu_lora", *command],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(folder / "store" / name / "adapter_model.safetensors"), done


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_make_the_adapter_of_one(taught_base, tmp_path):
    one, alone = forget(tmp_path, taught_base, "one", 1, batch_size=4)
    two, both = forget(tmp_path, taught_base, "two", 2, batch_size=2)
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[key], two[key], atol=1e-5) for key in one)
    assert any(value.abs().max() > 1e-3 for key, value in one.items() if "lora_B" in key)

    store = tmp_path / "store"
    assert sorted(entry.name for entry in store.iterdir() if not entry.name.startswith(".")) == ["one", "two"]
    assert not (store / ".runs").exists() and not list((store / ".staging").iterdir())
    manifests = [json.loads((store / name / "manifest.json").read_text()) for name in ("one", "two")]
    for when in ("before", "after"):  # each process measured a part of the questions
        figures = [manifest["figures"][when] for manifest in manifests]
        assert figures[0] == pytest.approx(figures[1], abs=1e-3)
    assert manifests[0]["training"]["steps"] == manifests[1]["training"]["steps"] == 4
    # what a person sees is seen once
    for said in ("Loading the base", "Writing the adapter"):
        assert alone.stderr.count(said) == both.stderr.count(said) == 1
