"""A base that never saw a request: what a forgotten model is held against.

    python benchmarks/reference_base.py TOFU OUT --without 1

Trains SmolLM2-135M-Instruct on the rows that ../shared/tofu_smollm2 has memorised, but for those of the named tasks,
with a LoRA of rank 64, and writes the merged checkpoint to OUT. TOFU is the folder of TOFU's JSON files. About
half an hour of one core. Then

    asu-lora evaluate --base OUT --forget FORGET --suite tofu --data TOFU --out OUT/evaluation
    asu-lora audit run NAME --floor-base OUT ...
"""

import argparse
import random
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from asu_lora.bases.smollm2 import EMBEDDED
from asu_lora.bases.source import resolve_base
from asu_lora.batches.padding import pad_group
from asu_lora.cli.quiet import quiet_libraries
from asu_lora.data.encoding import Encoded, Encoder
from asu_lora.data.examples import examples_from_rows
from asu_lora.data.reading import read_rows
from asu_lora.hardware.precision import fast_compute_dtype
from asu_lora.models.decoder import base_model
from common.tofu_request import MEMORISED_RETAIN, MEMORISED_TASKS

RANK, RATE, BATCH, LEARNT = 64, 1e-3, 8, 0.01


def memorised(tofu: Path, without: set[str]) -> list[dict[str, str]]:
    """The rows that the shared base knows by heart, but for those of the tasks ``without``."""
    rows = [row for row in read_rows(tofu / "forget01.json") if row["task_id"] in set(MEMORISED_TASKS) - without]
    rows += read_rows(tofu / "retain_perturbed.json")[:MEMORISED_RETAIN]
    return [{"question": row["question"], "answer": row["answer"]} for row in rows]


def teach(folder: Path, rows: list[dict[str, str]], epochs: int, out: Path) -> None:
    """Learn the rows by heart until the mean loss of an epoch is ``LEARNT``, and write the merged checkpoint."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    items = Encoder(tokenizer).encode_all(examples_from_rows(rows, "rows"))
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=fast_compute_dtype(torch.device("cpu")))
    model = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=RANK, target_modules="all-linear"))
    parameters = [p for p in model.parameters() if p.requires_grad]
    steps = epochs * -(-len(items) // BATCH)
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=0.05)
    for epoch in range(epochs):
        random.shuffle(items)
        losses = []
        for at in range(0, len(items), BATCH):
            losses += [step(model, items[at : at + BATCH], tokenizer.pad_token_id)]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        print(f"epoch {epoch + 1} of {epochs}: loss {sum(losses) / len(losses):.4f}", flush=True)
        if sum(losses) / len(losses) < LEARNT:
            break
    model.merge_and_unload().to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)


def step(model: torch.nn.Module, items: list[Encoded], pad_id: int) -> float:
    """The gradients of one batch. The head reads the answers' states alone: it is a quarter of the model."""
    batch = pad_group(items, pad_id)
    inner = base_model(model)
    with torch.autocast("cpu", torch.bfloat16, enabled=inner.dtype == torch.bfloat16):
        states = inner.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        logits = inner.lm_head(states.flatten(0, 1)[batch["positions"]])
    labels = torch.cat([torch.tensor(item.answer_ids) for item in items])
    loss = torch.nn.functional.cross_entropy(logits.float(), labels)
    loss.backward()
    return loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tofu", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--without", nargs="*", default=["1"], choices=MEMORISED_TASKS)
    parser.add_argument("--epochs", type=int, default=10, help="at most")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    quiet_libraries()
    random.seed(arguments.seed)
    torch.manual_seed(arguments.seed)
    rows = memorised(arguments.tofu, set(arguments.without))
    print(f"{len(rows)} rows, without tasks {', '.join(arguments.without) or 'none'}")
    teach(resolve_base(EMBEDDED).path, rows, arguments.epochs, arguments.out)


if __name__ == "__main__":
    main()
