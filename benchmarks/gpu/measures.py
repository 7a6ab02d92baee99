"""What is measured on a card: its peak, whether steps are equal, what they take, and the whole job."""

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from asu_lora import ForgetConfig, forget
from asu_lora.data.request import ForgetRequest
from asu_lora.forgetting.dry_run import plan_run
from asu_lora.models.generation import generate_answers
from asu_lora.models.loading import load_base
from common.training_steps import Workload, peak_memory, settled, settled_memory, timed

SWITCHES = ("compile", "compiled", "fused")  # settings that make a step faster, where this version has one of them
BARS = {"forget probability kept": 0.40, "retain probability kept": 0.90}


def peak_flops(device: str, size: int, seconds: float = 2.0) -> dict[str, float]:
    """The bf16 TFLOP/s that a plain product of two (size, size) matrices reaches: the median of what fits in."""
    one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        one @ other
    taken, until = [], time.perf_counter() + seconds
    while len(taken) < 3 or time.perf_counter() < until:
        settled()
        began = time.perf_counter()
        one @ other
        settled()
        taken.append(time.perf_counter() - began)
    return {"size": size, "tflops": 2 * size**3 / statistics.median(taken) / 1e12}


def equality(base: str, tofu: Path, device: str, rows: int) -> dict[str, float]:
    """Largest relative differences, in fp32: the step against the straightforward way, and packed against padded."""
    work = Workload(base, tofu, "fp32", rows, rows, config=ForgetConfig(keep_speaking=False), device=device)
    work.cache()
    losses, gradients = {}, {}
    for name, step in steps_by_name(work).items():
        peft, _ = work.student()
        losses[name] = float(step(peft)())
        gradients[name] = torch.cat([p.grad.flatten() for p in peft.parameters() if p.grad is not None])
        peft.unload()
    padded = gradients["asu, padded"]

    def distance(name: str) -> float:
        return float((gradients[name] - padded).norm() / padded.norm())

    found = {
        "loss, against the straightforward way": abs(losses["asu, padded"] / losses["straightforward"] - 1),
        "gradient, against the straightforward way": distance("straightforward"),
        "gradient, packed against padded": distance("asu, packed"),
    }
    return found | {"equal": all(value < 1e-3 for value in found.values())}


def steps_by_name(work: Workload) -> dict[str, Callable]:
    """The steps that must agree, each made for an adapter."""
    pairs = work.pairs
    return {
        "asu, padded": lambda peft: work.asu(peft, packing=None),
        "asu, packed": lambda peft: work.asu(peft, packing="line" if work.device.type == "cuda" else "lines"),
        "straightforward": lambda peft: work.straightforward(peft, pairs),
    }


def switches() -> list[str]:
    """The settings of this version that make a step faster."""
    known = {spec.name for spec in dataclasses.fields(ForgetConfig)}
    return [name for name in SWITCHES if name in known]


def step_times(
    work: Workload, shape: str, rounds: int, slow_rounds: int, peak: float | None, told: Callable[[dict], None]
) -> None:
    """Median seconds of a step of every kind; ``told`` gets each as soon as it is there."""
    few, every = work.pairs[: max(1, len(work.pairs) // 2)], work.pairs
    auto = "line" if work.device.type == "cuda" else "lines"
    kinds: list[tuple[str, str, list, Callable]] = [
        ("plain QLoRA", "padded", every, lambda peft, pairs: work.plain(peft, pairs)),
        ("ASU", "padded", every, lambda peft, pairs: work.asu(peft, pairs, None)),
        ("ASU", "packed", every, lambda peft, pairs: work.asu(peft, pairs, auto)),
        ("ASU", "packed", few, lambda peft, pairs: work.asu(peft, pairs, auto)),
        ("straightforward", "padded to 500", few, lambda peft, pairs: work.straightforward(peft, pairs)),
    ]
    ordinary = work.config
    for name in switches():
        kinds.append((f"ASU, {name}", "packed", every, lambda peft, pairs: work.asu(peft, pairs, auto)))
    plain_row = None
    for name, how, pairs, make in kinds:
        switch = name.partition(", ")[2]
        work.config = replace(ordinary, **{switch: True}) if switch else ordinary
        peft, optimizer = work.student()
        step = make(peft, pairs)
        turns = slow_rounds if name == "straightforward" else rounds
        taken = [timed(step, optimizer)[0] for _ in range(turns + 2)][2:]  # two to compile and to settle
        peft.unload()
        seconds = statistics.median(taken)
        row = seconds / (2 * len(pairs))
        plain_row = plain_row or row
        tokens = tokens_of(work, pairs)
        tflops = flops_of(work, tokens) / seconds / 1e12
        told(
            {
                "shape": shape,
                "step": name,
                "how": how,
                "rows": 2 * len(pairs),
                "tokens": tokens,
                "seconds": seconds,
                "runs": taken,
                "tokens per second": tokens / seconds,
                "tflops": tflops,
                "share of peak": tflops / peak if peak else None,
                "against plain": row / plain_row,
            }
        )
    work.config = ordinary


def tokens_of(work: Workload, pairs: list) -> int:
    """Tokens of the rows, without padding."""
    forget, retain = work.rows["forget"].answers, work.rows["retain"].answers
    return sum(len(forget[i]) for i, _ in pairs) + sum(len(retain[j]) for _, js in pairs for j in js)


def flops_of(work: Workload, tokens: int) -> float:
    """What the adapted layers need for a step: forward and the backward pass by the activations, 2 FLOP a weight each.

    The base's weights are frozen and get no gradient; attention, adapter and head are left out.
    """
    layers = work.base.number_of_layers - work.config.first_adapted(work.base.number_of_layers)
    config = work.model.config.get_text_config()
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = getattr(config, "num_key_value_heads", config.num_attention_heads)
    attention = config.hidden_size * head * (2 * config.num_attention_heads + 2 * keys)
    return 4.0 * tokens * layers * (attention + 3 * config.hidden_size * config.intermediate_size)


def memory(base: str, tofu: Path, device: str, precision: str, rows: int) -> dict[str, float]:
    """The planned peak of a run, and that of its training steps, in GB; and one over the other."""
    config = ForgetConfig(precision=precision, device=device, eval_rows=0, batch_size=rows, retain_per_forget=1)
    work = Workload(base, tofu, precision, rows, rows, config=config, device=device)
    settled_memory(work.device)
    work.cache()
    peft, optimizer = work.student()
    for _ in range(3):
        timed(work.asu(peft), optimizer)
    seen = peak_memory(work.device)
    peft.unload()
    with tempfile.TemporaryDirectory() as store:
        _, plan = plan_run(work.request, base, config, name="plan", store=store)
    planned = sum(plan.phases["training"].values())
    return {"planned GB": planned / 1e9, "seen GB": seen / 1e9, "planned / seen": planned / seen}


def whole_job(base: str, request: ForgetRequest, device: str, precision: str, **settings: Any) -> dict[str, Any]:
    """``asu-lora forget`` with the defaults: its seconds, and how much is forgotten and kept."""
    settled()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as store:
        made = forget(request, base, ForgetConfig(precision=precision, device=device, **settings), store=store)
        seconds = time.perf_counter() - began
    found: dict[str, Any] = {
        "rows": len(request.forget),
        "seconds": seconds,
        "steps": made.record.training["steps"],
        "training seconds": made.record.training["train_seconds"],
    }
    before, after = made.before, made.after
    for name in ("forget", "retain"):
        if before.get(f"{name}_probability"):
            found[f"{name} probability kept"] = after[f"{name}_probability"] / before[f"{name}_probability"]
            found[f"{name} ROUGE-L"] = after[f"{name}_rouge"]
    if len(found) > 4:
        kept, gone = found["retain probability kept"], found["forget probability kept"]
        found["within the bars"] = kept >= BARS["retain probability kept"] and gone <= BARS["forget probability kept"]
    return found


def generation(base: str, device: str, precision: str, prompts: int, new_tokens: int) -> dict[str, float]:
    """Greedy answers to many prompts: tokens a second, the end of turn ignored in none of them."""
    loaded = load_base(base, precision, device)
    ids = [list(range(5, 25 + at % 8)) for at in range(prompts)]
    generate_answers(loaded.model, loaded.tokenizer, ids[:2], new_tokens=4)
    settled()
    began = time.perf_counter()
    answers = generate_answers(loaded.model, loaded.tokenizer, ids, new_tokens=new_tokens, whole=True)
    settled()
    seconds, tokens = time.perf_counter() - began, sum(map(len, answers))
    return {"prompts": prompts, "tokens": tokens, "seconds": seconds, "tokens per second": tokens / seconds}
