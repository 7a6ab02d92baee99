"""A request on the memorised TOFU rows as two files, for `asu-lora forget` and `asu-lora compare`.

    python benchmarks/tofu_request.py TOFU OUT --task 1
    asu-lora compare OUT/forget.jsonl --retain OUT/retain.jsonl --base BASE --suite tofu --data TOFU --task 1 \\
        --questions 40 --out OUT/comparison

OUT/forget.jsonl holds the 40 questions of the task, OUT/retain.jsonl the other memorised rows. 160 of those have
paraphrased and perturbed answers, which are kept: `asu-lora compare` scores the retain set on them.
"""

import argparse
import json
from pathlib import Path

from forget_tofu import MEMORISED_TASKS, request_for


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
