"""The memory plan of large bases on small GPUs, from the shapes of their configs alone: the tables of docs/memory.md.

    python benchmarks/memory_on_paper.py

The defaults, NF4, bf16, 40 forget and 200 retain rows of one length, half of it prompt. No GPU is needed.
"""

import argparse
import dataclasses

import torch
from transformers import LlamaConfig, Qwen2Config

from asu_lora.cli.quiet import quiet_libraries
from asu_lora.config import ForgetConfig
from asu_lora.data.encoding import Encoded
from asu_lora.data.training_rows import TrainingRows
from asu_lora.forgetting.prepare import build_losses
from asu_lora.losses import TrainingSet
from asu_lora.losses.on_policy import OnPolicyKL
from asu_lora.memory_plan.fit import changes, fit, parse_size
from asu_lora.memory_plan.plan import plan_memory
from asu_lora.memory_plan.planned_run import PlannedRun, meta_model
from common.shaped_base import COMMON, SHAPES

BASES = {
    "Llama-3.1-8B": (LlamaConfig(**COMMON | SHAPES["llama-3.1-8b"]), "12GB"),
    "Qwen2.5-7B": (
        Qwen2Config(
            hidden_size=3584,
            intermediate_size=18944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            vocab_size=152_064,
            max_position_embeddings=32768,
        ),
        "12GB",
    ),
    "Llama-3-70B": (LlamaConfig(**COMMON | SHAPES["llama-3-70b"]), "48GB"),
}
FORGET, RETAIN, LENGTHS = 40, 200, (100, 512)


def planned_run(model: torch.nn.Module, config: ForgetConfig, tokens: int) -> PlannedRun:
    def rows(count: int) -> list[Encoded]:
        return [Encoded((1,) * (tokens - tokens // 2), (2,) * (tokens // 2))] * count

    forget, retain = rows(FORGET), rows(RETAIN)
    # what keep_speaking takes out of the teacher takes no memory
    losses = build_losses(dataclasses.replace(config, keep_speaking=False)) | {"on_policy": OnPolicyKL()}
    rows_of = {
        "forget": TrainingRows({"answer": forget}),
        "retain": TrainingRows({"answer": retain}),
        "on_policy": TrainingRows({"answer": forget}, beside={row: row for row in range(FORGET)}),
    }
    sets = {name: TrainingSet(losses[name], each) for name, each in rows_of.items()}
    evaluated = [forget, retain[: config.eval_rows]]
    return PlannedRun(model, torch.device("cuda"), torch.bfloat16, sets, evaluated)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    quiet_libraries()
    config, lines, parts = ForgetConfig(tau=3.0, device="cuda"), [], []
    for name, (shapes, budget) in BASES.items():
        model = meta_model(shapes, torch.bfloat16)
        for tokens in LENGTHS:
            run = planned_run(model, config, tokens)
            full = plan_memory(run, config).peak
            settings, plan = fit(run, config, parse_size(budget))
            lines.append(
                f"| {name}, {budget[:-2]} GB | {tokens} | {full / 1e9:.1f} | "
                f"`{' '.join(changes(config, settings))}` | {plan.peak / 1e9:.1f} |"
            )
            print(lines[-1], flush=True)
            parts.append((name, tokens, plan.phase, {k: round(v / 1e9, 2) for k, v in plan.phases[plan.phase].items()}))
    for part in parts:
        print(*part)


if __name__ == "__main__":
    main()
