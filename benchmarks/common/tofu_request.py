"""A request on the memorised TOFU rows as two files, for `asu-lora forget` and `asu-lora compare`.

    python benchmarks/common/tofu_request.py TOFU OUT --task 1
    asu-lora compare OUT/forget.jsonl --retain OUT/retain.jsonl --base BASE --suite tofu --data TOFU --task 1 \\
        --questions 40 --out OUT/comparison

OUT/forget.jsonl holds the 40 questions of the task, OUT/retain.jsonl the other memorised rows. 160 of those have
paraphrased and perturbed answers, which are kept: `asu-lora compare` scores the retain set on them.
"""

import argparse
import json
from pathlib import Path

from asu_lora import ForgetRequest
from asu_lora.data.examples import examples_from_rows
from asu_lora.data.reading import read_rows

MEMORISED_TASKS, MEMORISED_RETAIN = ("1", "2", "3"), 160


def request_for(tofu: Path, task: str, left_out: bool):
    """The request of one task, and the memorised rows that are in neither set."""
    rows = [{**row, "paraphrased_answer": None, "perturbed_answer": None} for row in read_rows(tofu / "forget01.json")]
    mine = [row for row in rows if row["task_id"] == task]
    others = [row for row in rows if row["task_id"] in MEMORISED_TASKS and row["task_id"] != task]
    retain = read_rows(tofu / "retain_perturbed.json")[:MEMORISED_RETAIN]
    held = retain[140:160] + others[30:40] + others[70:80] if left_out else []
    kept = [row for row in retain + others if row not in held]
    return ForgetRequest.from_rows(mine, kept), examples_from_rows(held, "left-out rows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tofu", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--task", default="1", choices=MEMORISED_TASKS)
    arguments = parser.parse_args()
    request, _ = request_for(arguments.tofu, arguments.task, left_out=False)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, examples in (("forget", request.forget), ("retain", request.retain)):
        rows = [
            {"question": e.question, "answer": e.answer, **{k: v for k, v in e.extra.items() if v is not None}}
            for e in examples
        ]
        file = arguments.out / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        print(f"{len(rows)} rows: {file}")


if __name__ == "__main__":
    main()
