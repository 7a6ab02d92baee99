"""Another base and other authors than those the settings were chosen on: for `adding_up.py --requests files`.

    python benchmarks/other_base.py TOFU OUT
    python benchmarks/adding_up.py OUT/base OUT/rows STORE --requests files --tag other-adds-up

Fine-tunes all weights of SmolLM2-135M-Instruct on 280 TOFU rows that the shared base never saw: 40 each of three tasks
of forget05.json, 120 to keep and 40 to leave out of retain90.json. TOFU is the folder of TOFU's JSON files. The weights
are bf16, with fp32 copies for the optimizer. About half an hour of one core.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from reference_base import BATCH, LEARNT, step
from transformers import AutoModelForCausalLM, AutoTokenizer

from asu_lora.bases.smollm2 import EMBEDDED
from asu_lora.bases.source import resolve_base
from asu_lora.cli.quiet import quiet_libraries
from asu_lora.data.encoding import Encoder
from asu_lora.data.examples import examples_from_rows
from asu_lora.data.reading import read_rows
from common.tofu_request import MEMORISED_RETAIN

TASKS, A_TASK, RATE, WARMUP, EPOCHS = ("6", "7", "8"), 40, 3e-4, 10, 8
FIRST, KEPT, LEFT_OUT = 400, 120, 40  # of retain90's rows that the shared base didn't memorise: whole authors


def rows_of(tofu: Path) -> dict[str, list[dict[str, str]]]:
    """The requests, what is kept and what is left out, by the name of their file."""
    tasks = read_rows(tofu / "forget05.json")
    known = {row["question"] for row in read_rows(tofu / "forget01.json")}
    known |= {row["question"] for row in read_rows(tofu / "retain_perturbed.json")[:MEMORISED_RETAIN]}
    others = [row for row in read_rows(tofu / "retain90.json") if row["question"] not in known][FIRST:]
    found = {f"task{task}": [row for row in tasks if row["task_id"] == task][:A_TASK] for task in TASKS}
    found |= {"kept": others[:KEPT], "left": others[KEPT : KEPT + LEFT_OUT]}
    return {
        name: [{"question": row["question"], "answer": row["answer"]} for row in rows] for name, rows in found.items()
    }


def teach(rows: list[dict[str, str]], out: Path) -> None:
    """Learn the rows by heart."""
    folder = resolve_base(EMBEDDED).path
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    items = Encoder(tokenizer).encode_all(examples_from_rows(rows, "rows"))
    weights = list(model.parameters())
    copies = [weight.detach().float().clone() for weight in weights]
    optimizer = torch.optim.AdamW(copies, lr=RATE, weight_decay=0.0, fused=True)
    total, done = EPOCHS * -(-len(items) // BATCH), 0
    for epoch in range(EPOCHS):
        random.shuffle(items)
        losses = []
        for at in range(0, len(items), BATCH):
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1.0, done / WARMUP) * (1 - 0.9 * done / total)
            losses.append(step(model, items[at : at + BATCH], tokenizer.pad_token_id))
            for weight, copy in zip(weights, copies, strict=True):
                assert weight.grad is not None
                copy.grad, weight.grad = weight.grad.float(), None
            torch.nn.utils.clip_grad_norm_(copies, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                for weight, copy in zip(weights, copies, strict=True):
                    weight.copy_(copy)
            done += 1
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {sum(losses) / len(losses):.4f}", flush=True)
        if sum(losses) / len(losses) < LEARNT:
            break
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tofu", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    quiet_libraries()
    random.seed(7)
    torch.manual_seed(7)
    rows = rows_of(arguments.tofu)
    (arguments.out / "rows").mkdir(parents=True, exist_ok=True)
    for name, some in rows.items():
        (arguments.out / "rows" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    teach([row for some in rows.values() for row in some], arguments.out / "base")


if __name__ == "__main__":
    main()
