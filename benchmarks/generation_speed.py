"""Answers a second: the evaluation's batched generation against a bare ``generate`` with the best batch.

    python benchmarks/generation_speed.py BASE TOFU

The same questions, the same limit; tokens up to each answer's end count. Both in turn, several times. Writes
docs/results/generation_speed.md and data/generation_speed.json.
"""

import argparse
import time
from pathlib import Path
from statistics import median

import torch

from asu_lora.cli.quiet import quiet_libraries
from asu_lora.data.chat_template import stop_ids
from asu_lora.data.encoding import Encoder
from asu_lora.data.examples import examples_from_rows
from asu_lora.data.reading import read_rows
from asu_lora.models.generation import generate_answers
from asu_lora.models.loading import load_base
from common.results import write_data, write_table
from common.training_steps import plain

TOTAL = 120


def bare(base, prompts: list, rows: int) -> int:
    """Answer tokens of ``model.generate`` on batches of ``rows`` prompts, sorted by length."""
    tokenizer, stops, count = base.tokenizer, stop_ids(base.tokenizer), 0
    prompts = sorted(prompts, key=len)
    for start in range(0, len(prompts), rows):
        part = prompts[start : start + rows]
        width = max(map(len, part))
        ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(p)) + list(p) for p in part])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in part])
        out = base.model.generate(
            input_ids=ids.to(base.device),
            attention_mask=mask.to(base.device),
            do_sample=False,
            eos_token_id=stops,
            pad_token_id=tokenizer.pad_token_id,
            max_new_tokens=TOTAL - min(map(len, part)),
        )
        for prompt, row in zip(part, out[:, width:].tolist(), strict=True):
            row = row[: TOTAL - len(prompt)]
            count += next((at for at, token in enumerate(row) if token in stops), len(row))
    return count


def device_name(device: str) -> str:
    return f"{torch.get_num_threads()} threads" if device == "cpu" else torch.cuda.get_device_name(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("tofu", type=Path)
    parser.add_argument("--questions", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[20, 40, 80])
    parser.add_argument("--device", default="cpu", help="cuda for the same on a GPU")
    parser.add_argument("--name", default="generation_speed", help="of the files in docs/results")
    a = parser.parse_args()
    quiet_libraries()
    base = load_base(a.base, "nf4", a.device)
    encoder = Encoder(base.tokenizer)
    examples = examples_from_rows(plain(read_rows(a.tofu / "forget01.json")[: a.questions]), "questions")
    prompts = [encoder.prompt_ids(example.prompt) for example in examples]
    rates: dict[str, list[float]] = {"evaluation": []} | {f"generate, batches of {n}": [] for n in a.batches}
    for turn in range(a.rounds + 1):
        for name in rates:
            began = time.perf_counter()
            if name == "evaluation":
                count = sum(map(len, generate_answers(base.model, base.tokenizer, prompts, TOTAL)))
            else:
                count = bare(base, prompts, int(name.rpartition(" ")[2]))
            rate = count / (time.perf_counter() - began)
            print(f"{name}: {rate:.1f} tokens/s", flush=True)
            if turn:
                rates[name].append(rate)
    best = max(median(values) for name, values in rates.items() if name != "evaluation")
    ratio = median(rates["evaluation"]) / best
    write_data(a.name, {"tokens per second": rates, "ratio": ratio})
    lines = [
        "# Answers a second",
        "",
        f"`python benchmarks/generation_speed.py BASE TOFU --questions {a.questions} --rounds {a.rounds}"
        f"{'' if a.device == 'cpu' else f' --device {a.device}'}`, NF4, "
        f"{device_name(a.device)}: medians of {a.rounds} alternating rounds.",
        "",
        "| | answer tokens a second |",
        "|---|---|",
    ]
    lines += [f"| {name} | {median(values):.1f} |" for name, values in rates.items()]
    lines += ["", f"The evaluation reaches {ratio:.2f} of the best bare `generate` (wanted: at least 0.90)."]
    write_table(a.name, "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
