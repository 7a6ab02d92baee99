"""Benchmarks that ``asu-lora evaluate --suite`` knows, one a file.

A suite reads its data, from a folder or a hub dataset. Some give question sets, which are scored like a user's
own; the others score a model by rules of their own. Nothing is imported until it is asked for. A new suite is a
file here and an entry in SUITES.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Suite:
    """One benchmark.

    Attributes:
        name: what ``--suite`` takes.
        reader: ``file.function`` in this package; takes a folder or hub id and gives the data.
        scorer: ``file.function`` that scores a stack on the data; None where the data are question sets for
            :func:`asu_lora.evaluation.evaluate.evaluate`.
        hub: the hub dataset it is read from by default; None where the data must be named.
    """

    name: str
    reader: str
    scorer: str | None = None
    hub: str | None = None

    @property
    def read(self) -> Callable:
        return _function(self.reader)

    @property
    def score(self) -> Callable | None:
        return _function(self.scorer) if self.scorer else None


def _function(path: str) -> Callable:
    module, function = path.split(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), function)


SUITES = {
    suite.name: suite
    for suite in (
        Suite("tofu", "tofu.tofu_sets"),
        Suite("muse-news", "muse.read", "muse.score", "muse-bench/MUSE-News"),
        Suite("muse-books", "muse.read", "muse.score", "muse-bench/MUSE-Books"),
        Suite("wmdp", "wmdp.read", "wmdp.score", "cais/wmdp"),
    )
}
