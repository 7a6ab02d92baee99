"""What step k of a history costs, and what serving after it costs, to 30 requests on a tiny model.

    python benchmarks/continual_cost.py            # under 3 minutes, writes docs/results/continual_cost.md
    python benchmarks/continual_cost.py --steps 10 --out /tmp/results

Builds a tiny Llama of random weights and 30 requests, and runs them through ``run_history`` four ways: stacked,
stacked and folded every 5 steps (exactly, and cut to the rank of one adapter), and as one running adapter. What is
timed is the part that could grow: an optimizer step on top of what is active, and a forward pass of what is active
after it. Each of these is timed again and again after the history has been made, the histories and the steps in
turn, and the median is kept, so that a machine that slows down meanwhile slows all of them.
"""

import argparse
import platform
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path

import torch

from asu_lora import ForgetConfig, ForgetRequest
from asu_lora.adapters.store import AdapterStore
from asu_lora.cli.quiet import quiet_libraries
from asu_lora.models.adapter_stack import load
from asu_lora.models.frozen_adapters import frozen_adapters
from asu_lora.models.loading import LoadedBase, load_base
from asu_lora.studies.continual.history import HistoryConfig, run_history
from asu_lora.studies.continual.steps import Step
from asu_lora.training.new_adapter import adapted
from common.results import RESULTS, write_data, write_table
from common.tiny_base import save_tiny_base

FOLD = 5
RANK = 4
HISTORIES = {
    "stack": HistoryConfig(),
    f"stack, folded every {FOLD} (exact)": HistoryConfig(consolidate_every=FOLD),
    f"stack, folded every {FOLD} (rank {RANK})": HistoryConfig(consolidate_every=FOLD, consolidate_rank=RANK),
    "running": HistoryConfig("running"),
}
SETTINGS = ForgetConfig(
    precision="fp32",
    device="cpu",
    tau=3.0,
    smooth_layers="all",
    adapter_layers="all",
    rank=RANK,
    epochs=3,
    warmup=0.0,
    eval_rows=0,
    batch_size=2,
    retain_per_forget=1,
)
TOKENS = 512
REPEATS = 5


def requests(count: int) -> list[Step]:
    keep = [{"question": f"What is {i} and {i}?", "answer": f"It is {2 * i}."} for i in range(4)]
    return [
        Step(
            k,
            f"{k:02d}-request",
            ForgetRequest.from_rows(
                [
                    {"question": f"Where does person {k}.{i} live?", "answer": f"In house {7 * k + i}."}
                    for i in range(2)
                ],
                keep,
            ),
        )
        for k in range(1, count + 1)
    ]


class Bench:
    """One history that has been made, and the two things that are timed of it."""

    def __init__(self, base: LoadedBase, folder: Path, steps: list[Step], history: HistoryConfig):
        self.base, self.history, self.steps = base, history, steps
        self.records = run_history(steps, base, SETTINGS, folder, history)
        self.store = AdapterStore(folder / "adapters")
        self.ids = torch.randint(3, 300, (1, TOKENS), generator=torch.Generator().manual_seed(0))

    def training_step(self, k: int) -> float:
        """Seconds of forward and backward pass and AdamW in step k: on top of what was active before it."""
        active = self.records[k - 1].active if self.history.mode == "stack" else []
        model = self.base.model
        with frozen_adapters(self.base, active, self.store) as ground, adapted(model, SETTINGS, ground) as student:
            optimizer = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=1e-4)

            def step() -> None:
                student(input_ids=self.ids, use_cache=False).logits.float().logsumexp(-1).mean().backward()
                optimizer.step()
                optimizer.zero_grad()

            return best(step)

    def serving(self, k: int) -> float:
        """Seconds of a forward pass with what is active after step k."""
        stack = load(self.base, self.records[k].active, self.store)
        try:
            with torch.no_grad():
                return best(lambda: stack.model(input_ids=self.ids, use_cache=False))
        finally:
            stack.unload()


def best(function) -> float:
    function()
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


def measure(count: int, rounds: int) -> dict:
    with tempfile.TemporaryDirectory() as scratch:
        save_tiny_base(Path(scratch) / "base")
        base, steps = load_base(str(Path(scratch) / "base"), "fp32", "cpu"), requests(count)
        benches = {
            name: Bench(base, Path(scratch) / str(i), steps, history)
            for i, (name, history) in enumerate(HISTORIES.items())
        }
        # the first step, and whole cycles of folding early, half way and at the end
        timed = sorted(
            {
                1,
                *range(FOLD + 1, 2 * FOLD + 1),
                *range(count // 2 + 1, count // 2 + FOLD + 1),
                *range(count - FOLD + 1, count + 1),
            }
        )
        times: dict = {name: {k: {"train": [], "serve": []} for k in timed} for name in benches}
        for _ in range(rounds):
            for k in timed:
                for name, bench in benches.items():
                    times[name][k]["train"].append(bench.training_step(k))
                    times[name][k]["serve"].append(bench.serving(k))
        return {
            name: [
                {
                    "step": k,
                    "train_ms": 1e3 * statistics.median(times[name][k]["train"]),
                    "serve_us_per_token": 1e6 * statistics.median(times[name][k]["serve"]) / TOKENS,
                    "active": len(bench.records[k].active),
                    "ranks": bench.records[k].active_rank,
                    "bytes": bench.records[k].active_bytes,
                    "fold_error": bench.records[k].fold,
                }
                for k in timed
            ]
            for name, bench in benches.items()
        }


def growth(rows: list[dict], key: str) -> float:
    """The last cycle of folding against the second: in the first, nothing is folded yet."""
    second, last = rows[1 : 1 + FOLD], rows[-FOLD:]
    return statistics.fmean(row[key] for row in last) / statistics.fmean(row[key] for row in second)


def markdown(found: dict, count: int) -> str:
    lines = [
        "# The cost of request k",
        "",
        f"`python benchmarks/continual_cost.py --steps {count}`, {date.today()}, {platform.machine()}, torch "
        f"{torch.__version__}, {torch.get_num_threads()} threads. Tiny Llama (2 layers, hidden size 64), adapters "
        f"of rank {RANK}, {TOKENS} tokens a pass, medians. Growth is steps {count - FOLD + 1} to {count} against "
        f"steps {FOLD + 1} to {2 * FOLD}.",
        "",
        "| history | training step, ms: 1 | "
        + f"{FOLD + 1} | {count} | growth | serving, µs a token: 1 | "
        + f"{FOLD + 1} | {count} | growth | active at {count} | ranks at {count} | MB at {count} |",
        "|---|" + "---:|" * 11,
    ]
    for name, rows in found.items():
        cells = []
        for key in ("train_ms", "serve_us_per_token"):
            cells += [f"{rows[i][key]:.2f}" for i in (0, 1, -1)] + [f"{growth(rows, key):.2f}"]
        last = rows[-1]
        lines.append(
            f"| {name} | " + " | ".join(cells) + f" | {last['active']} | {last['ranks']} | {last['bytes'] / 1e6:.3f} |"
        )
    errors = [row["fold_error"] for rows in found.values() for row in rows if row["fold_error"]]
    if errors:
        lines += [
            "",
            f"Cutting to rank {RANK} cost a relative error of the update of {min(errors):.2g} to "
            f"{max(errors):.2g} each time. (These requests are learned by a few optimizer steps only, and "
            "all adapters of a history begin with the same A, that of its seed: real ones differ more.)",
        ]
    return "\n".join(lines) + "\n\n" + extrapolation()


def extrapolation() -> str:
    """10,000 requests on a 7B model, by arithmetic."""
    hidden, inner, layers, rank, count = 4096, 11008, 32, 8, 10_000
    shapes = [(hidden, hidden)] * 4 + [(hidden, inner)] * 3
    adapted_layers = layers // 2  # the default: the upper half
    one = adapted_layers * sum((a + b) * rank for a, b in shapes)
    full = adapted_layers * sum((a + b) * min(a, b) for a, b in shapes)
    linear = layers * sum(a * b for a, b in shapes)
    rows = (
        ("stack", count, count * one),
        ("folded exactly", 1, min(count * one, full)),
        (f"folded to rank {rank}", 1, one),
        ("running", 1, one),
    )
    lines = [
        "## 10,000 requests, on paper",
        "",
        f"A 7B Llama (hidden size {hidden}, {layers} layers), rank {rank} on all linear layers of the upper half: "
        f"{one / 1e6:.1f} million parameters an adapter, {2 * one / 1e6:.0f} MB in bf16. A token costs 2 "
        f"operations a parameter; the base's linear layers have {linear / 1e9:.2f} billion.",
        "",
        "| history | active adapters | parameters | bf16 | extra arithmetic a token |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {name} | {active:,} | {size / 1e6:,.0f} M | {2 * size / 1e9:,.2f} GB | {100 * size / linear:,.1f} % |"
        for name, active, size in rows
    ]
    lines += [
        "",
        f"Exact folding stops growing at min(in, out) ranks a module: after {hidden // rank} requests here. "
        "From there on a module's two factors are larger than its update, and merging into the weights "
        "(`asu-lora merge`) serves at no extra cost. The history itself, one file a request, is "
        f"{2 * count * one / 1e9:,.0f} GB on the disk: it is what takes a single request back, and is never "
        "loaded to serve. Training and scoring a step look at what is active, at the step's own rows and at a "
        "bounded number of earlier questions, so their cost follows the table, not the number of requests.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="requests (at least 10)")
    parser.add_argument("--rounds", type=int, default=2, help="how often each step is timed")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    quiet_libraries()
    found = measure(max(arguments.steps, 2 * FOLD), arguments.rounds)
    write_data("continual_cost", found, arguments.out)
    text = markdown(found, max(arguments.steps, 2 * FOLD))
    write_table("continual_cost", text, arguments.out)
    print(text)


if __name__ == "__main__":
    main()
