"""The question sets of an evaluation: TOFU's four, or a user's own."""

import os
from dataclasses import dataclass
from pathlib import Path

from asu_lora.data.examples import Example, examples_from_rows
from asu_lora.data.reading import read_rows
from asu_lora.data.request import select_rows
from asu_lora.errors import DataError
from asu_lora.evaluation.figures import sample

FORGET, RETAIN, AUTHORS, WORLD = "forget", "retain", "real_authors", "world_facts"


@dataclass(frozen=True)
class QuestionSet:
    """Questions that are scored together.

    Attributes:
        name: ``forget``, ``retain``, ``real_authors`` or ``world_facts`` (the four that MU and FE are made of).
        examples: the questions; ``paraphrased_answer``, ``perturbed_answer`` and ``original_answer`` in their
            extra fields where there are any.
        multiple_choice: whether probability is that of the true answer among the wrong ones.
    """

    name: str
    examples: tuple[Example, ...]
    multiple_choice: bool = False


def own_sets(forget: str | Path | None, retain: str | Path | None, most: int,
             where: dict | None = None) -> list[QuestionSet]:
    """A user's own files: at most ``most`` questions of each."""
    sets = []
    for name, source in ((FORGET, forget), (RETAIN, retain)):
        if source is not None:
            rows = read_rows(source)
            if where and name == FORGET:
                rows = select_rows(rows, where, str(source))
            sets.append(QuestionSet(name, tuple(sample(examples_from_rows(rows, str(source)), most))))
    if not sets:
        raise DataError("Nothing to evaluate on: name a --forget or --retain file, or --suite tofu with --data.")
    return sets


def tofu_sets(data: str | Path, split: str = "forget01", task: str | None = "1", most: int = 300) -> list[QuestionSet]:
    """TOFU's forget, retain, real authors and world facts (arXiv 2401.06121) from a folder of its JSON files, or
    from the hub id ``locuslab/TOFU``.

    Args:
        data: a folder with ``{split}_perturbed.json``, ``retain_perturbed.json``,
            ``real_authors_perturbed.json``, ``world_facts_perturbed.json``; or the hub id.
        task: the ``task_id`` of the forget split, None for all its rows.
        most: most questions of a set, spread evenly over it.
    """
    names = {FORGET: f"{split}_perturbed", RETAIN: "retain_perturbed", AUTHORS: "real_authors_perturbed",
             WORLD: "world_facts_perturbed"}
    sets = []
    for name, file in names.items():
        source = _tofu_source(data, file)
        rows = read_rows(source)
        if name == FORGET and task is not None and any("task_id" in row for row in rows):
            rows = select_rows(rows, {"task_id": task}, file)
        examples = examples_from_rows(rows, file)
        sets.append(QuestionSet(name, tuple(sample(examples, most)), name in (AUTHORS, WORLD)))
    return sets


def _tofu_source(data: str | Path, file: str) -> str:
    folder = Path(data)
    if folder.is_dir():
        path = folder / f"{file}.json"
        if not path.is_file():
            there = ", ".join(sorted(p.name for p in folder.glob("*.json"))[:12]) or "no .json files"
            raise DataError(f"The TOFU folder {data} has no {file}.json; it has {there}.")
        return str(path)
    if str(data).startswith((".", os.sep)) or str(data).count("/") != 1:
        raise DataError(f"There is no TOFU folder {data}.")
    return f"{data}:{file}"
