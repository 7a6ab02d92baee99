"""What Trainer is told: the device that the base is on, the warm-up."""

import torch
from accelerate import Accelerator, PartialState

from asu_lora.config import ForgetConfig
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


def test_the_warm_up_is_a_share_of_the_steps(tmp_path):
    arguments = training_arguments(ForgetConfig(warmup=0.05), tmp_path, torch.device("cpu"), torch.float32, False)
    assert [arguments.get_warmup_steps(steps) for steps in (1, 2, 19, 20, 21, 100)] == [0, 0, 0, 1, 2, 5]
    arguments = training_arguments(ForgetConfig(warmup=0.99), tmp_path, torch.device("cpu"), torch.float32, False)
    assert [arguments.get_warmup_steps(steps) for steps in (1, 2, 3)] == [0, 1, 2]
