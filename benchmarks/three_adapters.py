"""Three requests, three adapters, and everything that can be done with them: forget and retain figures of each.

    python benchmarks/three_adapters.py BASE TOFU STORE

STORE holds task1-nf4-0, task2-nf4-0 and task3-nf4-0, made by

    python benchmarks/forget_tofu.py BASE TOFU --task 1 2 3 --precision nf4 --store STORE

16 questions of each task and 16 of the retain rows are measured: answer probability and ROUGE-L recall. What is there
already is not measured again. Writes docs/results/three_adapters.md and data/three_adapters.json.
"""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from asu_lora.adapters.combine import combine
from asu_lora.adapters.store import AdapterStore
from asu_lora.bases.source import resolve_base
from asu_lora.cli.quiet import quiet_libraries
from asu_lora.data.encoding import Encoder
from asu_lora.data.sampling import sample
from asu_lora.evaluation.set_scores import score_set
from asu_lora.merging.deployments import deployments
from asu_lora.merging.durable.durable_rounding import DurableSettings
from asu_lora.merging.merge import merge
from asu_lora.models.adapter_stack import load
from asu_lora.models.decoder import base_model
from asu_lora.models.loading import keep_trainable_layout, load_tokenizer
from asu_lora.models.output_head import FrozenHead
from common.results import read_data, write_data, write_table
from common.tofu_request import request_for

TASKS, QUESTIONS = ("1", "2", "3"), 16
STACK = "stack of three"


class Lab:
    """The base, its adapters, and the ways to put them together; each way is a context that gives a model."""

    def __init__(self, base: Path, tofu: Path, store: Path, work: Path):
        self.source, self.store, self.work = resolve_base(str(base)), AdapterStore(store), work
        requests = {task: request_for(tofu, task, False)[0] for task in TASKS}
        self.forget = {task: request.forget for task, request in requests.items()}
        # rows that are in the retain set of all three: none of them is anyone's forget row
        self.retain = [row for row in requests["1"].retain if all(row in r.retain for r in requests.values())]
        self.sets = {f"task {task}": sample(rows, QUESTIONS) for task, rows in self.forget.items()}
        self.sets["retain"] = sample(self.retain, QUESTIONS)
        self.adapters = [f"task{task}-nf4-0" for task in TASKS]
        self.folders = [(self.store.resolve(name), 1.0) for name in self.adapters]

    @contextmanager
    def stack(self, *names: str) -> Iterator[torch.nn.Module]:
        yield load(self.source.name, list(names), self.store, "nf4").model

    @contextmanager
    def combined(self, rank: int | None) -> Iterator[torch.nn.Module]:
        out = self.work / f"combined-{rank}"
        combine([folder for folder, _ in self.folders], [1.0] * len(self.folders), out, rank)
        yield load(self.source.name, [out], self.store, "nf4").model

    @contextmanager
    def merged(
        self, precision: str, durable: DurableSettings | None = None, served: str | None = None
    ) -> Iterator[torch.nn.Module]:
        """Merged to a precision, and loaded as plain transformers does: as it is, or in the precision ``served``."""
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            out = Path(folder) / "merged"
            merge(self.source, self.folders, out, precision, durable=durable)
            yield next(
                way
                for way in deployments(resolve_base(str(out)), precision, torch.device("cpu"))
                if (way.precision == served if served else way.written)
            ).open()

    @contextmanager
    def peft_merged(self) -> Iterator[torch.nn.Module]:
        """PEFT's own merge into the 4-bit weights, one adapter after the other."""
        model = load(self.source.name, self.adapters, self.store, "nf4").model.merge_and_unload()
        keep_trainable_layout(model)
        yield model

    def ways(self) -> dict:
        one, two, three = self.adapters
        looked_at = [row for row in self.retain if row not in self.sets["retain"]][:80]
        asked = [row for rows in self.forget.values() for row in rows]
        return {
            "base": lambda: self.stack(),
            "adapter 1 alone": lambda: self.stack(one),
            "adapter 2 alone": lambda: self.stack(two),
            "adapter 3 alone": lambda: self.stack(three),
            STACK: lambda: self.stack(*self.adapters),
            "combined, exact (rank 24)": lambda: self.combined(None),
            "combined, rank 8": lambda: self.combined(8),
            "merged, fp32": lambda: self.merged("fp32"),
            "merged, fp16": lambda: self.merged("fp16"),
            "merged, bf16": lambda: self.merged("bf16"),
            "merged, bf16, served in int8": lambda: self.merged("bf16", served="int8"),
            "merged, nf4, to nearest": lambda: self.merged("nf4"),
            "merged, nf4, --durable": lambda: self.merged("nf4", DurableSettings(asked, looked_at)),
            "merged, nf4, --durable, --residual-rank 4": lambda: self.merged(
                "nf4", DurableSettings(asked, looked_at, residual_rank=4)
            ),
            "PEFT's 4-bit merge": self.peft_merged,
            "adapter 2 taken back": lambda: self.stack(one, three),
        }


def figures(lab: Lab, model: torch.nn.Module, tokenizer) -> dict[str, list[float]]:
    head, encoder, found = FrozenHead(base_model(model)), Encoder(tokenizer), {}
    for name, examples in lab.sets.items():
        got = score_set(model, head, tokenizer, encoder, examples).summary("x")
        found[name] = [got["x_probability"], got["x_rouge"]]
    return found


def table(found: dict) -> str:
    names = [f"task {task}" for task in TASKS] + ["retain"]
    lines = [
        "# Three adapters: stacked, combined, merged, taken back",
        "",
        "`python benchmarks/three_adapters.py BASE TOFU STORE`: SmolLM2-135M with memorised TOFU rows, tasks 1, 2 "
        "and 3 forgotten one by one with the defaults (NF4, rank 8), each trained alone on the plain base. "
        f"{QUESTIONS} questions a set; answer probability / ROUGE-L recall. The retain rows measured are retain "
        "rows of all three; the durable merge did not look at them. Came back: of the probability that the stack "
        "of three took from the forget sets, the share that this model has again (`merge --check` allows 10 %).",
        "",
        "| model | " + " | ".join(names) + " | came back |",
        "|---" * (len(names) + 2) + "|",
    ]
    for way, got in found.items():
        cells = [f"{got[n][0]:.3f} / {got[n][1]:.3f}" for n in names]
        lines.append(f"| {way} | " + " | ".join(cells) + f" | {came_back(found, way)} |")
    return "\n".join(lines) + "\n"


def came_back(found: dict, way: str) -> str:
    """Share of what the stack made the base forget, in percent; only where all three adapters are in the model."""
    if STACK not in found or not way.startswith(("combined", "merged", "PEFT")):
        return ""
    taken, back = (
        sum(found[a][f"task {task}"][0] - found[b][f"task {task}"][0] for task in TASKS)
        for a, b in (("base", STACK), (way, STACK))
    )
    return f"{100 * back / taken:.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("tofu", type=Path)
    parser.add_argument("store", type=Path)
    a = parser.parse_args()
    quiet_libraries()
    found = read_data("three_adapters", {})
    with tempfile.TemporaryDirectory() as work:
        lab = Lab(a.base, a.tofu, a.store, Path(work))
        tokenizer = load_tokenizer(lab.source)
        for way, opened in lab.ways().items():
            if way in found:
                continue
            with opened() as model:
                found[way] = figures(lab, model, tokenizer)
            print(way, found[way], flush=True)
            write_data("three_adapters", found)
            write_table("three_adapters", table(found))
    print(table(found))


if __name__ == "__main__":
    main()
