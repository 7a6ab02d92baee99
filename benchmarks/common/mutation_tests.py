"""A pytest plugin for runs of many mutants: it leaves out what takes time and tells no more of a mutant."""

import os
import shutil
from pathlib import Path

from hypothesis import Phase, settings

from tests.support import tiny_run

_teach = tiny_run.save_taught_base


def _taught_before(folder: Path, steps: int = 200) -> Path:
    """A copy of the base that the run's first test taught."""
    kept = Path(os.environ["ASU_LORA_MUTATION_BASE"]) / str(steps)
    if not kept.is_dir():
        being_made = kept.with_name(f"{kept.name}-{os.getpid()}")
        _teach(being_made, steps)
        being_made.rename(kept)
    return Path(shutil.copytree(kept, folder, dirs_exist_ok=True))


def pytest_configure(config) -> None:
    tiny_run.save_taught_base = _taught_before
    # the same examples for every mutant, and no search for the smallest that fails
    settings.register_profile("mutation", derandomize=True, database=None, phases=[Phase.explicit, Phase.generate])
    settings.load_profile("mutation")


def pytest_collection_modifyitems(items) -> None:
    """mutmut names the quickest tests first; fixtures of a file are made once if its tests follow each other."""
    order: dict[Path, int] = {}
    items.sort(key=lambda item: order.setdefault(item.path, len(order)))
