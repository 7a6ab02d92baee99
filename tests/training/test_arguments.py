"""Trainer on the device the base is on."""

import torch
from accelerate import Accelerator, PartialState

from asu_lora.training.arguments import stay_on, training_arguments
from tests.support.tiny_run import tiny_settings


def test_training_stays_on_the_device_of_the_base(tmp_path):
    """Of a machine with one processor: the device that is named is the one that Trainer and accelerate take."""
    arguments = training_arguments(tiny_settings(), tmp_path, torch.device("cpu"), torch.float32, checkpoints=False)
    assert arguments.device == torch.device("cpu")
    try:
        stay_on(torch.device("cpu", 0), arguments)
        assert arguments.device == torch.device("cpu", 0) == Accelerator(cpu=True).device
    finally:
        PartialState().device = torch.device("cpu")
