"""The page and the figure of benchmarks/audit.py: each attack beside floor and ceiling, a method a column."""

from pathlib import Path
from typing import Any

from asu_lora.audit.results import AttackResult, AuditResult, Rate
from asu_lora.reporting.plot_style import COLOURS, MARKERS, new_figure, paper_style

IMAGE = Path(__file__).resolve().parents[2] / "docs" / "images" / "audit.png"
LENGTHS = {"quick": 1, "standard": 2, "full": 3}
FIRST = "adds-up"
OTHERS = (
    " GA_GD and NPO_GD were trained as many steps, at the learning rate that is best for them in "
    "[the comparison](comparison.md)."
)

Run = dict[str, Any]


def results(runs: list[Run]) -> dict[str, dict[str, AuditResult]]:
    """By depth and method."""
    found: dict[str, dict[str, AuditResult]] = {}
    for run in sorted(runs, key=lambda run: LENGTHS[run["depth"]]):
        result = AuditResult.model_validate(run["result"])
        before = found.setdefault(run["depth"], {}).get(run["method"])
        if before is not None:  # attacks that were made apart
            result = result.model_copy(update={"attacks": [*before.attacks, *result.attacks]})
        found[run["depth"]][run["method"]] = result
    return found


def table(runs: list[Run], command: str) -> str:
    """The page."""
    parts = [
        "# What an audit finds on an adapter",
        f"`{command} ...`. The base has memorised the rows; task 1 of TOFU (40 questions) was forgotten. The floor is "
        "what the base says of rows like these that it never saw, the ceiling what it says of the forgotten ones "
        "without an adapter; recovered is (found - floor) / (ceiling - floor). In brackets: 95 % intervals over rows."
        + (OTHERS if {run["method"] for run in runs} != {FIRST} else ""),
        "![Each attack's share of facts, between floor and ceiling](../images/audit.png)",
    ]
    for depth, methods in results(runs).items():
        parts += [f"## Depth: {depth}", _of_depth(methods), _cost(runs, depth)]
    return "\n\n".join(parts) + "\n"


def _of_depth(methods: dict[str, AuditResult]) -> str:
    lead, others = next(iter(methods)), list(methods)[1:]
    attacks = {name: {attack.attack: attack for attack in result.attacks} for name, result in methods.items()}
    heads = ["attack", "figure", lead, "floor", "ceiling", "control", "recovered"]
    heads += [f"{name}{what}" for name in others for what in ("", ", recovered")]
    lines = ["| " + " | ".join(heads) + " |", "|---|---|" + "---:|" * (len(heads) - 2)]
    for attack in methods[lead].attacks:
        for at, reading in enumerate(attack.readings):
            cells = [attack.attack if not at else "", reading.figure.replace("_", " ")]
            cells += [_rate(reading.candidate), _rate(reading.floor), _rate(reading.ceiling), _rate(reading.control)]
            cells.append(_back(attack, reading.recovered))
            for name in others:
                other = _same(attacks[name].get(attack.attack), reading.figure)
                cells += [_rate(other.candidate), _back(attack, other.recovered)] if other else ["", ""]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _same(attack: AttackResult | None, figure: str):
    return next((reading for reading in attack.readings if reading.figure == figure), None) if attack else None


def _rate(rate: Rate | None) -> str:
    return "" if rate is None else f"{rate.value:.2f} ({rate.low:.2f}-{rate.high:.2f})"


def _back(attack: AttackResult, share: float | None) -> str:
    """The recovered share; what only tells rows apart brings nothing back, and is called so."""
    if share is None:
        return ""
    return f"{share:.0%}" if attack.of_knowledge else f"told apart: {share:.0%}"


def _cost(runs: list[Run], depth: str) -> str:
    of_depth = [run for run in runs if run["depth"] == depth]
    told = [
        f"{run['method']}{' (' + run['attacks'] + ')' if run['attacks'] else ''}: {run['core seconds']} core-seconds"
        + (f", {run['wall seconds']} s" if run["wall seconds"] else "")
        + f", {run['date']}"
        for run in of_depth
    ]
    return "Took, loading included: " + "; ".join(told) + "."


def draw(runs: list[Run], out: Path = IMAGE) -> None:
    """What tells facts at the depth with the most methods, of equals the widest: found, with its interval, between
    floor and ceiling."""
    depths = results(runs)
    methods = depths[max(depths, key=lambda depth: (len(depths[depth]), LENGTHS[depth]))]
    lead = methods[next(iter(methods))]
    shown = [attack for attack in lead.attacks if attack.readings[0].figure == "facts" and attack.readings[0].floor]
    with paper_style():
        figure, axes = new_figure(5.2, 0.42 * len(shown) + 1.0)
        for place, attack in enumerate(reversed(shown)):
            reading = attack.readings[0]
            floor, ceiling = reading.floor, reading.ceiling
            assert floor is not None  # those alone are shown
            top = ceiling.value if ceiling else 1.0
            axes.barh(place, top - floor.value, 0.62, floor.value, color="0.9", zorder=1)
            for at, (name, result) in enumerate(methods.items()):
                same = next((each for each in result.attacks if each.attack == attack.attack), None)
                if same is None:
                    continue
                rate = same.readings[0].candidate
                height = place + 0.2 * ((len(methods) - 1) / 2 - at)
                look = {"color": COLOURS[at], "marker": MARKERS[at], "zorder": 3}
                axes.plot([rate.low, rate.high], [height, height], color=COLOURS[at], linewidth=0.9, zorder=2)
                axes.plot(rate.value, height, linestyle="none", label=None if place else name, **look)
        axes.set_yticks(range(len(shown)), [attack.attack.replace("_", " ") for attack in reversed(shown)])
        axes.grid(axis="y", visible=False)
        axes.set_xlim(0, 1)
        axes.set_xlabel("share of a row's facts that is told; grey: from floor to ceiling")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(methods))
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, metadata={"Software": None})
