"""How many tokens go through the model at once: what keeps the device busy, and no more than that.

On two CPU cores a 135M base is as fast with 500 tokens a training pass and 1,000 without gradients as with more, and
each more takes memory (docs/results/step_cost.md). Accelerators want more to do at once.
"""

import torch

TRAINING = {"cpu": 512}
TRAINING_ELSEWHERE = 2048
READING = {"cpu": 2048}
READING_ELSEWHERE = 4096


def tokens_of_training(device: torch.device) -> int:
    """Tokens, padding included, of a forward pass whose activations wait for the backward pass."""
    return TRAINING.get(device.type, TRAINING_ELSEWHERE)


def tokens_of_reading(device: torch.device) -> int:
    """Tokens, padding included, of a forward pass without gradients."""
    return READING.get(device.type, READING_ELSEWHERE)
