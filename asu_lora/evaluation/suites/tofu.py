"""TOFU: forget, retain, real authors and world facts (arXiv 2401.06121)."""

import os
from pathlib import Path

from asu_lora.data.examples import examples_from_rows
from asu_lora.data.reading import read_rows
from asu_lora.data.request import select_rows
from asu_lora.data.sampling import sample
from asu_lora.errors import DataError
from asu_lora.evaluation.question_sets import AUTHORS, FORGET, RETAIN, WORLD, QuestionSet

TASK = "1"


def tofu_sets(data: str | Path, split: str = "forget01", task: str | None = TASK, most: int = 300) -> list[QuestionSet]:
    """TOFU's forget, retain, real authors and world facts (arXiv 2401.06121) from a folder of its JSON files, or
    from the hub id ``locuslab/TOFU``.

    Args:
        data: a folder with ``{split}_perturbed.json``, ``retain_perturbed.json``,
            ``real_authors_perturbed.json``, ``world_facts_perturbed.json``; or the hub id.
        task: the ``task_id`` of the forget split, None for all its rows. Of a split without this column, such as the
            hub's, the default takes all rows, too.
        most: most questions of a set, spread evenly over it.
    """
    names = {
        FORGET: f"{split}_perturbed",
        RETAIN: "retain_perturbed",
        AUTHORS: "real_authors_perturbed",
        WORLD: "world_facts_perturbed",
    }
    sets = []
    for name, file in names.items():
        source = _tofu_source(data, file)
        rows = read_rows(source)
        if name == FORGET and task is not None and (task != TASK or any("task_id" in row for row in rows)):
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
