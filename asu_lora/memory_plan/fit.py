"""``--fit``: the settings of a run changed until its planned peak fits into a budget."""

import dataclasses
import re
from collections.abc import Iterator

from asu_lora.batches.token_budget import tokens_of_training
from asu_lora.config import ForgetConfig
from asu_lora.errors import SettingError
from asu_lora.memory_plan.plan import MemoryPlan, plan_memory
from asu_lora.memory_plan.planned_run import PlannedRun

LEAST_TOKENS = 64  # below that, one row at a time

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def fit(run: PlannedRun, config: ForgetConfig, budget: int) -> tuple[ForgetConfig, MemoryPlan]:
    """The settings nearest to ``config`` with which the run fits.

    Only what leaves the result as it is changes: smaller micro-batches, and as many more of them a step, then gradient
    checkpointing, which costs a second forward pass, with as large micro-batches as it then allows.

    Args:
        budget: bytes the run may hold.

    Raises:
        SettingError: not even one row at a time fits.
    """
    plans: list[MemoryPlan] = []
    for settings in candidates(config, config.micro_batch_tokens or tokens_of_training(run.device)):
        plan = plan_memory(run, settings)
        if plan.peak <= budget:
            return settings, plan
        plans.append(plan)
    smallest = min(plans, key=lambda plan: plan.peak)
    way_out = "shorten --max-length or use a smaller base"
    if config.precision != "nf4":
        way_out = "use --precision nf4, " + way_out
    raise SettingError(
        f"The run doesn't fit into {size(budget)}: with one row at a time and gradient "
        f"checkpointing it still takes {size(smallest.peak)} ({smallest.phase}); {way_out}."
    )


def candidates(config: ForgetConfig, micro_batch: int) -> Iterator[ForgetConfig]:
    """The settings to try, the fastest first.

    Args:
        micro_batch: the tokens of a micro-batch to begin with; each following one has half as many.
    """
    for checkpointing in (False, True) if not config.gradient_checkpointing else (True,):
        settings = dataclasses.replace(config, gradient_checkpointing=checkpointing)
        yield settings
        tokens = micro_batch // 2
        while tokens >= LEAST_TOKENS:
            yield dataclasses.replace(settings, micro_batch_tokens=tokens)
            tokens //= 2
        if micro_batch > 1:
            yield dataclasses.replace(settings, micro_batch_tokens=1)  # one row at a time


def changes(before: ForgetConfig, after: ForgetConfig) -> list[str]:
    """What differs, as a person would type it."""
    found = []
    if after.micro_batch_tokens != before.micro_batch_tokens:
        found.append(f"--micro-batch-tokens {after.micro_batch_tokens}")
    if after.gradient_checkpointing and not before.gradient_checkpointing:
        found.append("--gradient-checkpointing")
    return found


def parse_size(text: str) -> int:
    """Bytes of ``12GB``, ``800M``, ``8GiB`` or a plain number.

    Raises:
        SettingError: it is none of these.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?|)b?", text.strip().lower())
    if not found or not float(found[1]):
        raise SettingError(
            f"'{text}' is no size of memory for --fit: write 12GB or 800MB, or --fit free for what the "
            "device has free (--fit alone must stand after FILE)."
        )
    return int(float(found[1]) * _UNITS[found[2]])


def size(count: float) -> str:
    """Bytes for a person."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
