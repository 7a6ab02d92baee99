"""Large tensors on a CPU in huge pages of memory: a training is a tenth faster (docs/results/whole_job.md).

Torch asks Linux for them if it is told so before it takes any memory, which importing transformers does.
"""

import os
from contextlib import suppress
from pathlib import Path

VARIABLE = "THP_MEM_ALLOC_ENABLE"  # torch's
SYSTEM = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use_huge_pages(system: Path = SYSTEM) -> None:
    """Have torch ask for huge pages where the system gives them; a value that stands in the environment is left alone.

    Args:
        system: the file in which Linux says whether it does.
    """
    with suppress(OSError):
        if "[never]" not in system.read_text():
            os.environ.setdefault(VARIABLE, "1")
