"""Forward pass, losses and backward pass never wait for the GPU to tell the host a number, but in transformers' masks.

No GPU is needed to see it: the operations that would wait are known, and the step is made of the same ones on the CPU.
What Trainer does between steps (clipping, the optimizer, the log) is its own.
"""

import traceback
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from asu_lora import forget
from asu_lora.training.trainer import UnlearningTrainer
from tests.support.tiny_run import tiny_request, tiny_settings

THEIRS = "masking_utils.py"  # transformers asks each pass whether there is padding
COPYING = ("cpu", "tolist", "numpy")  # to the host; of tensors on the CPU, nothing that torch dispatches
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "aten.equal.", "unique", "repeat_interleave.Tensor")


class Waits(TorchDispatchMode):
    """Collects the places at which the host would wait."""

    def __init__(self, places: list[str]):
        super().__init__()
        self.places = places

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        chosen = [t for a in args if isinstance(a, (list, tuple)) for t in a if isinstance(t, torch.Tensor)]
        if any(name in str(func) for name in WAITING) or any(t.dtype == torch.bool for t in chosen):
            stack = [Path(frame.filename).name for frame in traceback.extract_stack()]
            if THEIRS not in stack:
                frames = [
                    f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_stack() if "asu_lora" in f.filename
                ]
                self.places.append(f"{func} {' '.join(frames[-2:])}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "asu", "retain_loss": "kl-answers", "precision": "nf4"},
        {"objective": "asu+idk", "retain_loss": "gd"},
        {"objective": "npo", "retain_loss": "kl"},
        {"objective": "dpo", "retain_loss": "ap"},
        {"objective": "me", "retain_loss": "gd"},
    ],
    ids=lambda changes: "-".join(changes.values()),
)
@pytest.mark.parametrize("padded_devices", [{"cpu"}, set()], ids=["padded", "packed"])
def test_a_step_does_not_wait_for_the_device(taught_base, tmp_path, monkeypatch, changes, padded_devices):
    monkeypatch.setattr("asu_lora.models.packing_trial.PADDED_DEVICES", padded_devices)
    places, steps, training_step = [], [], UnlearningTrainer.training_step

    def watched(*args, **kwargs):
        with monkeypatch.context() as patch, Waits(places):
            for name in COPYING:
                patch.setattr(torch.Tensor, name, lambda tensor, *args, _name=name, **kwargs: places.append(_name))
            loss = training_step(*args, **kwargs)
        steps.append(loss)
        return loss

    monkeypatch.setattr(UnlearningTrainer, "training_step", watched)
    forget(
        tiny_request(),
        str(taught_base),
        tiny_settings(adapter_layers="1", smooth_layers="1", epochs=1, **changes),
        store=tmp_path,
    )
    assert steps and not places


def test_a_wait_would_be_seen():
    places = []
    with Waits(places):
        numbers = torch.arange(4.0)
        numbers.sum().item()
        numbers[numbers > 1]
    assert len(places) == 2
