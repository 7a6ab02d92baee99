"""The device a base lies on."""

import torch

from asu_lora.errors import SettingError, first_line


def choose_device(device: str | None = None) -> torch.device:
    """The named device, or CUDA, XPU, MPS, CPU in this order."""
    if device in (None, "auto"):
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return torch.device(accelerator.type, 0) if accelerator else torch.device("cpu")
    try:
        target = torch.device(device)
        torch.empty(1, device=target)
    except (RuntimeError, AssertionError) as error:
        raise SettingError(f"The device '{device}' can't be used here: {first_line(error)}") from error
    return target
