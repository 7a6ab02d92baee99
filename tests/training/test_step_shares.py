"""One step, shared out in many ways: the gradient of every loss is the same."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from asu_lora.losses import FORGET, RETAIN
from asu_lora.models.loading import load_base
from tests.conftest import ROOT
from tests.support.step_gradients import KINDS, PAIRS, step_gradient

SHARES = [
    dict(batch_size=4, grad_accum=2),
    dict(batch_size=2, grad_accum=4),
    dict(batch_size=8, micro_batch_tokens=1),
    dict(batch_size=4, grad_accum=2, micro_batch_tokens=150),
]


@pytest.fixture(scope="module")
def base(taught_base):
    return load_base(str(taught_base), "fp32", "cpu")


@pytest.fixture(scope="module")
def whole(base):
    """The gradients of steps of one batch, in one pass."""
    return {pair: step_gradient(base, pair, batch_size=8, micro_batch_tokens=10**6) for pair in PAIRS}


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def test_every_loss_is_looked_at():
    assert {forget for forget, _ in PAIRS} == set(FORGET) and {retain for _, retain in PAIRS} == set(RETAIN)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_batches_and_micro_batches_leave_the_gradient_as_it_is(base, whole, pair):
    assert whole[pair].norm() > 1e-3
    for share in SHARES if pair in KINDS else SHARES[3:]:  # all ways for each kind of mean, one for each loss
        assert difference(step_gradient(base, pair, **share), whole[pair]) < 1e-5, share


@pytest.mark.parametrize("pair", KINDS, ids="-".join)
def test_a_last_step_of_fewer_rows_is_shared_out_too(base, pair):
    """Seven rows: the last batch of a step has fewer rows than the others, and each row counts the same."""
    expected = step_gradient(base, pair, forget=7, batch_size=8)
    for share in (dict(batch_size=4, grad_accum=2), dict(batch_size=2, grad_accum=4)):
        assert difference(step_gradient(base, pair, forget=7, **share), expected) < 1e-5, share


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_processes_leave_the_gradient_as_it_is(taught_base, whole, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    script = ["-m", "tests.support.step_gradients", str(taught_base), str(tmp_path / "gradients.pt")]
    done = subprocess.run(
        [sys.executable, *launch, *script],
        env=os.environ
        | {
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(tmp_path / "gradients.pt")
    assert found.keys() == {" ".join(pair) for pair in KINDS}
    for pair in KINDS:
        assert difference(found[" ".join(pair)], whole[pair]) < 1e-5, pair


def test_each_set_has_its_own_coefficient(base):
    """The step's gradient is linear in both coefficients, and they weigh different losses."""
    pair = ("asu", "kl-answers")

    def gradient(forget: float, retain: float) -> torch.Tensor:
        return step_gradient(base, pair, batch_size=8, forget_coeff=forget, retain_coeff=retain)

    once = gradient(1.0, 1.0)
    forget_part, retain_part = gradient(2.0, 1.0) - once, gradient(1.0, 2.0) - once
    assert difference(forget_part + retain_part, once) < 1e-4
    assert difference(0.7 * forget_part + 1.9 * retain_part, gradient(0.7, 1.9)) < 1e-4
    alone = step_gradient(base, ("asu", "none"), batch_size=8)
    assert difference(forget_part, alone) < 1e-4 and retain_part.norm() > 1e-3
