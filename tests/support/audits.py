"""Audits as a runner would write them, with every kind of attack: figures made up, shapes as in a real one."""

from datetime import UTC, datetime, timedelta
from typing import Any

from asu_lora.audit.results import AttackResult, AuditResult, Rate, Reading, Untried


def rate(value: float, rows: int = 20, spread: float = 0.08) -> Rate:
    return Rate(value=value, low=max(0.0, value - spread), high=min(1.0, value + spread), rows=rows)


def reading(candidate: float, floor: float = 0.05, ceiling: float = 0.93, figure: str = "facts", **more) -> Reading:
    recovered = max(0.0, (candidate - floor) / (ceiling - floor)) if ceiling - floor >= 0.05 else None
    return Reading(
        figure=figure, candidate=rate(candidate), ceiling=rate(ceiling), floor=rate(floor), recovered=recovered, **more
    )


def figures(result: AuditResult) -> dict[str, Any]:
    """What an audit found, without the times that differ each time."""
    told = result.model_dump(exclude={"started", "finished", "mark"})
    for attack in told["attacks"]:
        del attack["seconds"]
    return told


def attacks() -> list[AttackResult]:
    steps = [0.0, 2.0, 5.0, 10.0, 20.0, 40.0]
    layers = [float(layer) for layer in range(30)]
    lens = [min(0.9, 0.03 * layer) for layer in range(30)]
    return [
        AttackResult(attack="direct", kind="asking", readings=[reading(0.04), reading(0.0, figure="rows_leaking")]),
        AttackResult(attack="paraphrase", kind="asking", readings=[reading(0.09)]),
        AttackResult(
            attack="prefix",
            kind="asking",
            readings=[reading(0.18)],
            settings={"shares": "1/4, 1/2", "languages": "en, de"},
            notes=["With half of an answer given, its other half is often a matter of grammar."],
        ),
        AttackResult(
            attack="leak_at_k",
            kind="sampling",
            readings=[reading(0.21, figure="facts")],
            settings={"samples": 128, "temperature": 1.0},
            curves={"k": [1, 2, 4, 8, 16, 32, 64], "candidate": [0.01, 0.02, 0.05, 0.08, 0.12, 0.17, 0.21]},
            notes=["128 samples are too few to tell less than 2 % from nothing."],
        ),
        AttackResult(
            attack="relearn_fifth",
            kind="weights",
            readings=[reading(0.31, control=rate(0.22))],
            settings={"steps": 40, "lr": 0.0001},
            curves={
                "step": steps,
                "candidate": [0.04, 0.1, 0.19, 0.27, 0.31, 0.29],
                "control": [0.05, 0.08, 0.14, 0.2, 0.22, 0.21],
                "ceiling": [0.93] * 6,
                "floor": [0.05, 0.05, 0.06, 0.07, 0.07, 0.07],
            },
        ),
        AttackResult(
            attack="requantised", kind="precision", readings=[reading(0.05)], settings={"precisions": "fp32, int8, nf4"}
        ),
        AttackResult(
            attack="logit_lens",
            kind="inside",
            readings=[reading(0.11, figure="extraction_strength")],
            curves={"layer": layers, "candidate": [share / 6 for share in lens], "ceiling": lens},
        ),
        AttackResult(attack="min_k", kind="membership", readings=[reading(0.57, 0.5, 0.98, "auc")]),
        AttackResult(attack="difference", kind="differencing", readings=[reading(0.88)]),
        AttackResult(attack="ruled_out_words", kind="trace", readings=[reading(0.5, 0.5, 0.52, "auc")]),
    ]


def ago(**time: float) -> str:
    """A time before now, as audits write it."""
    return (datetime.now(UTC) - timedelta(**time)).strftime("%Y-%m-%dT%H:%M:%SZ")


def audit(name: str = "kept", found: list[AttackResult] | None = None, **changes) -> AuditResult:
    fields = {
        "audited": "adapter",
        "names": [name],
        "precision": "bf16",
        "seed": 0,
        "rows": 20,
        "started": ago(minutes=3),
        "finished": ago(minutes=1),
        "attacks": attacks() if found is None else found,
        "untried": [Untried(attack="gguf_q4", reason="the package gguf is not installed")],
    }
    return AuditResult(**(fields | changes))
