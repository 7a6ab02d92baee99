"""Peak memory of a training step against the size of the vocabulary.

    python benchmarks/vocabulary.py BASE TOFU

The same small Gemma-like model with 32,768, 131,072 and 262,144 words. Their tokenizer is of BASE's kind, trained anew
on TOFU's text: BASE's own has more words than the smallest. What a step takes above the loaded base should not grow.
Writes docs/results/vocabulary.md and data/vocabulary.json.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from transformers import AutoTokenizer

from asu_lora.data.reading import read_rows
from common.gemma_like import save
from common.results import write_data, write_table
from common.training_steps import plain

SIZES, WORDS = (32_768, 131_072, 262_144), 8192
KINDS = ("asu", "plain")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("tofu", type=Path)
    a = parser.parse_args()
    found = []
    texts = [text for row in plain(read_rows(a.tofu / "retain90.json")) for text in row.values()]
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = str(Path(folder) / "tokenizer")
        AutoTokenizer.from_pretrained(a.base).train_new_from_iterator(texts, WORDS).save_pretrained(tokenizer)
        for size in SIZES:
            base = save(tokenizer, Path(folder) / str(size), size)
            for kind in KINDS:
                out = subprocess.run(
                    [
                        sys.executable,
                        str(Path(__file__).with_name("step_cost.py")),
                        str(base),
                        str(a.tofu),
                        "--peak",
                        kind,
                        "--precision",
                        "fp32",
                    ],
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout
                found.append({"vocabulary": size, "step": kind} | json.loads(out.splitlines()[-1]))
                print(found[-1], flush=True)
    write_data("vocabulary", found)
    cells = {(run["vocabulary"], run["step"]): run["above"] for run in found}
    lines = [
        "# Memory against vocabulary",
        "",
        "`python benchmarks/vocabulary.py BASE TOFU`: a Gemma-like model (8 layers, hidden size 256, random "
        "weights) in fp32, 8 + 8 rows a step. Peak above the loaded base, MB.",
        "",
        "| words | head, MB | " + " | ".join(KINDS) + " |",
        "|---" * (2 + len(KINDS)) + "|",
    ]
    lines += [
        f"| {size:,} | {size * 256 * 4 / 1e6:.0f} | "
        + " | ".join(f"{cells[size, kind] / 1e6:.0f}" for kind in KINDS)
        + " |"
        for size in SIZES
    ]
    lines += [
        "",
        "What grows with the vocabulary is the head itself: its weights are mapped from the checkpoint and "
        "read for the first",
        "time in the step, so they count here.",
    ]
    write_table("vocabulary", "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
