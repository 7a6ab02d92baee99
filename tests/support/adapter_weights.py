"""The weights of a stored adapter, and whether two are the same bit for bit."""

import torch
from safetensors.torch import load_file


def weights(store, name):
    return load_file(store / name / "adapter_model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
