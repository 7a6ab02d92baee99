"""What every part of a run needs: which process this is, which base."""

from accelerate import PartialState

from asu_lora.config import ForgetConfig
from asu_lora.hardware.device import choose_device
from asu_lora.models.loading import LoadedBase
from asu_lora.progress import Progress


def this_process(config: ForgetConfig, base: str | LoadedBase) -> PartialState:
    """Which of the processes of an ``accelerate launch`` this is; else the only one."""
    device = base.device if isinstance(base, LoadedBase) else choose_device(config.device)
    return PartialState(cpu=device.type == "cpu")


def fingerprint(base: LoadedBase, progress: Progress) -> str:
    progress.stage("Reading the base's fingerprint")
    return base.source.fingerprint()
