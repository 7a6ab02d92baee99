"""Names that transformers gave up, and that PEFT asks for: a caller can do nothing about the warnings."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def renamed_quietly() -> Iterator[None]:
    """Inside, gradient checkpointing may be called by the name that all versions of transformers know."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`(is_)?gradient_checkpointing", category=FutureWarning)
        yield
