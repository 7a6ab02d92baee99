"""The demonstration: SmolLM2-135M forgets Harry Potter and keeps its capitals, in a few minutes on two cores.

A fact counts as *yielded* when one of its accepted strings stands in the greedy answer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from itertools import count
from pathlib import Path

from asu_lora.adapters.store import AdapterStore
from asu_lora.bases.smollm2 import EMBEDDED
from asu_lora.config import ForgetConfig
from asu_lora.data.reading import read_rows
from asu_lora.data.request import ForgetRequest
from asu_lora.data.sampling import sample
from asu_lora.forgetting.forget import ForgetResult, forget
from asu_lora.models.adapter_stack import load
from asu_lora.models.loading import load_base
from asu_lora.progress import Progress

NAME = "harry-potter"
TOTAL_TOKENS = 120  # of a prompt and its answer: these facts are told within a sentence or two


@dataclass(frozen=True)
class Asked:
    """One question of the demonstration, answered before and after."""

    question: str
    before: str
    after: str
    yielded_before: bool
    yielded_after: bool


@dataclass(frozen=True)
class DemoResult:
    """The run's own figures, and the questions it never saw: paraphrases and controls."""

    run: ForgetResult
    forget: list[Asked]
    heldout: list[Asked]
    controls: list[Asked]


def packaged_rows(name: str) -> list[dict]:
    """The rows of one of the demonstration's files: forget, retain, heldout, controls."""
    with resources.as_file(resources.files("asu_lora.demo") / f"{name}.jsonl") as path:
        return read_rows(path)


def run_demo(
    store: str | Path = "adapters",
    name: str = NAME,
    config: ForgetConfig | None = None,
    progress: Progress | None = None,
    replace: bool = False,
) -> DemoResult:
    """Train the demonstration's adapter into the store and ask base and base + adapter.

    Args:
        replace: an adapter of that name goes once the new one is there.

    Raises:
        AsuLoraError: as :func:`asu_lora.forgetting.forget.forget`.
    """
    progress = progress or Progress()
    AdapterStore(store).check_name(name, must_be_new=not replace)
    config = config or ForgetConfig()
    progress.stage("Loading the base")
    base = load_base(EMBEDDED, config.precision, config.device)
    request = ForgetRequest.from_rows(packaged_rows("forget"), packaged_rows("retain"), name)
    with set_aside(AdapterStore(store), name):
        result = forget(request, base, config, name=name, store=store, progress=progress)
    stack = load(base, [name], store)
    told = [figures.answers for figures in result.sets.get("forget", ())] or [[], []]
    asked = {"forget": side_by_side(sample(packaged_rows("forget"), config.eval_rows), *told)}
    for part in ("heldout", "controls"):
        rows = packaged_rows(part)
        progress.stage(f"Asking the {part} questions", 2)
        questions = [row["question"] for row in rows]
        with stack.without_adapters():
            before = stack.ask(questions, TOTAL_TOKENS)
        progress.advance()
        after = stack.ask(questions, TOTAL_TOKENS)
        progress.advance()
        asked[part] = side_by_side(rows, before, after)
    progress.close()
    return DemoResult(result, asked["forget"], asked["heldout"], asked["controls"])


@contextmanager
def set_aside(store: AdapterStore, name: str) -> Iterator[None]:
    """Inside, an adapter of the name has another one; then it is removed, or put back where something went wrong."""
    if name not in (taken := store.names()):
        yield
        return
    aside = next(free for number in count(1) if (free := f"{name}-earlier-{number}") not in taken)
    store.rename(name, aside)
    try:
        yield
    except BaseException:
        store.rename(aside, name)
        raise
    store.remove(aside)


def side_by_side(rows: list[dict], before: list[str], after: list[str]) -> list[Asked]:
    """Each question with its two answers."""
    return [
        Asked(row["question"], old, new, yields(old, row), yields(new, row))
        for row, old, new in zip(rows, before, after, strict=True)
    ]


def yields(answer: str, row: dict) -> bool:
    """Whether an answer gives the fact away (rows without accepted strings: no)."""
    return any(fact.casefold() in answer.casefold() for fact in row.get("fact", ()))
