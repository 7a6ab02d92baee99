"""A training step with rows padded in passes of like length, against the same step with rows packed end to end.

    python benchmarks/packing.py BASE TOFU [--device cuda]

Two mixes of rows: TOFU's as they are, and uneven ones, each with the answers of one to four rows. Medians of 5
alternating steps after one that isn't counted. Writes docs/results/packing.md and
data/packing.json, on a GPU packing_cuda.
"""

import argparse
import statistics
from pathlib import Path

import torch

from asu_lora.batches.collator import Collator
from asu_lora.batches.token_budget import tokens_of_training
from asu_lora.data.encoding import Encoded
from asu_lora.losses import needs_of
from common.results import write_data, write_table
from common.training_steps import Workload, on, timed

ROUNDS = 5
WAYS = {"padded": None, "packed": "lines"}


def uneven(items: list[Encoded]) -> list[Encoded]:
    """Each row with the answers of the up to three rows after it, by turns."""
    return [
        Encoded(item.prompt_ids, sum((other.answer_ids for other in items[at : at + 1 + at % 4]), ()))
        for at, item in enumerate(items)
    ]


def measure(work: Workload, mix: str) -> list[dict]:
    work.cache(keep_speaking=False)
    peft, _ = work.student()
    # the same weights again and again: that the losses agree is part of the result
    optimizer = torch.optim.SGD([p for p in peft.parameters() if p.requires_grad], lr=0.0)
    steps = {way: work.asu(peft, packing=packing) for way, packing in WAYS.items()}
    seen: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(1 + ROUNDS):
        for way, step in steps.items():
            seen[way].append(timed(step, optimizer))
            print(mix, way, *seen[way][-1], flush=True)
    peft.unload()
    found = []
    for way, packing in WAYS.items():
        collator = Collator(
            work.rows, needs_of(work.losses), work.pad_id, most_tokens=tokens_of_training(work.device), packing=packing
        )
        passes = [each for part in on(work.device, collator(work.pairs))["micro_batches"] for each in part["passes"]]
        found.append(
            {
                "rows": mix,
                "step": way,
                "seconds": statistics.median(s for s, _ in seen[way][1:]),
                "all seconds": [s for s, _ in seen[way][1:]],
                "loss": seen[way][0][1],
                "passes": len(passes),
                "tokens": sum(each["input_ids"].numel() for each in passes),
                "real tokens": sum(map(len, work.items)),
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("tofu", type=Path)
    parser.add_argument("--device", default="cpu")
    a = parser.parse_args()
    work = Workload(a.base, a.tofu, device=a.device)
    found = measure(work, "TOFU")
    for rows in work.rows.values():
        rows.views = {view: uneven(items) for view, items in rows.views.items()}
    found += measure(work, "uneven")
    name = "packing" if work.device.type == "cpu" else "packing_cuda"
    write_data(name, found)
    lines = [
        "# Packed rows against padded ones",
        "",
        f"`python benchmarks/packing.py BASE TOFU --device {work.device.type}`: "
        f"{torch.get_num_threads()} threads, NF4, rank 8, tau 3, 8 forget and 8 retain rows a step, "
        f"micro-batches of {tokens_of_training(work.device)} tokens; medians of {ROUNDS} alternating steps.",
        "",
        "| rows | step | seconds | from, to | passes | tokens | of them padding | loss |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {f['rows']} | {f['step']} | {f['seconds']:.2f} | {min(f['all seconds']):.2f}, "
        f"{max(f['all seconds']):.2f} | {f['passes']} | {f['tokens']:,} | "
        f"{1 - f['real tokens'] / f['tokens']:.0%} | {f['loss']:.7f} |"
        for f in found
    ]
    write_table(name, "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
