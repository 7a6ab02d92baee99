"""Tasks of EleutherAI's lm-evaluation-harness on base + adapters; the package is an extra."""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from asu_lora.errors import SettingError
from asu_lora.models.adapter_stack import Stack

PACKAGE = "lm_eval"
BATCH_ROWS = 8


def check_installed() -> None:
    """Refuse at once, before a base is loaded, where the package is missing.

    Raises:
        SettingError: with the command that installs it.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise SettingError(
            "--lm-eval needs lm-evaluation-harness, which isn't installed: pip install "
            "'asu-lora[lm-eval]', or pip install 'lm-eval>=0.4'."
        )


def run_tasks(stack: Stack, tasks: Sequence[str]) -> dict[str, dict[str, float]]:
    """Run tasks by the harness' own names (``mmlu``, ``wmdp``, ...), with its own prompts and shots.

    Returns:
        Per task, and per group and subtask, its metrics by the harness' names (``acc``, ``acc_stderr``, ...).

    Raises:
        SettingError: the package is missing, or doesn't know a task or can't get its data.
    """
    check_installed()
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=stack.model, tokenizer=stack.base.tokenizer, backend="causal", batch_size=BATCH_ROWS)
    try:
        found = simple_evaluate(model=model, tasks=list(tasks), log_samples=False, bootstrap_iters=0)
    except (KeyError, ValueError, OSError) as error:  # unknown task; no such data; no hub
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise SettingError(f"lm-evaluation-harness can't run {', '.join(tasks)}: {reason}") from error
    return figures(found or {})


def figures(found: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The numbers in what ``simple_evaluate`` gave, by task; ``acc,none`` (no filter) becomes ``acc``."""
    return {
        task: {
            metric.removesuffix(",none"): float(value)
            for metric, value in metrics.items()
            if isinstance(value, (int, float)) and "," in metric
        }
        for task, metrics in found.get("results", {}).items()
    }
