"""The figure of a probe: which words a smoothed teacher loses, at which tau, in which layers."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from asu_lora.reporting.plot_style import looks, new_figure, paper_style
from asu_lora.studies.probe.points import CLASSES, ProbePoint
from asu_lora.studies.probe.probe import Probe
from asu_lora.studies.probe.recommendation import MOST_GIBBERISH

NAMES = {"factual": "factual tokens", "function": "function tokens", "copied": "the question's words"}
PANEL = 1.7  # inches
MARK = {"color": "0.35", "linestyle": (0, (1, 1)), "linewidth": 1.2}
AUTO = {"color": "0.6", "linestyle": (0, (4, 3)), "linewidth": 0.9}
TICK_ROOM = 0.075  # of the axis: what a label takes of its width


def probe_figure(probe: Probe) -> Figure:
    """A column a layer group; from top to bottom NLL, attention entropy, teacher's answers, against tau."""
    entropy = any(value is not None for _, points in probe.curves for p in points for value in p.entropy.values())
    rows = ["nll", *(["entropy"] if entropy else []), *(["teacher"] if probe.answers else [])]
    columns = len(probe.curves)
    with paper_style():
        figure, grid = new_figure(
            max(3.4, 0.4 + PANEL * columns),
            0.75 + 1.45 * len(rows),
            len(rows),
            columns,
            squeeze=False,
            sharex=True,
            sharey="row",
        )
        for column, (group, points) in enumerate(probe.curves):
            grid[0, column].set_title(f"layers {group.label}".replace("-", "\u2013"))
            marked = _marks(probe) if group.name == probe.recommended.layers else []
            for row, name in zip(grid[:, column], rows, strict=True):
                _draw(row, name, points)
                for tau, look, _ in marked:
                    row.axvline(tau, zorder=1, **look)
            _tau_axis(grid[-1, column], [point.tau for point in points], max((tau for tau, *_ in marked), default=1.0))
        for axes, name in zip(grid[:, 0], rows, strict=True):
            axes.set_ylabel(
                {
                    "nll": "mean NLL\n(nats a token)",
                    "entropy": "attention entropy\n(nats)",
                    "teacher": "teacher's answers\n(share)",
                }[name]
            )
        grid[0, 0].set_ylim(bottom=0)  # shared by the row
        _limit_gibberish(grid[-1] if probe.answers else [], probe)
        figure.legend(
            handles=_handles(probe, rows),
            loc="outside lower center",
            ncols=3 if columns > 2 else 2,
            columnspacing=1.4,
            handlelength=2.6,
        )
    return figure


def _series(name: str) -> dict[str, dict[str, Any]]:
    """Every series of a row and its look; what is one thing looks the same in each row."""
    classes = dict(zip(CLASSES, looks(len(CLASSES)), strict=True))
    if name == "teacher":
        rouge, gibberish = looks(5)[3:]
        return {"rouge": rouge, "gibberish_rate": gibberish}
    return classes


def _draw(axes: Axes, name: str, points: list[ProbePoint]) -> None:
    taus = [point.tau for point in points]
    for series, look in _series(name).items():
        values = [getattr(p.teacher, series) if name == "teacher" else getattr(p, name)[series] for p in points]
        if any(value is not None for value in values):
            axes.plot(taus, values, **look, clip_on=False, zorder=3)


def _limit_gibberish(panels: Sequence[Axes], probe: Probe) -> None:
    """The share of gibberish above which no tau is recommended."""
    for axes, (_, points) in zip(panels, probe.curves, strict=False):
        axes.set_ylim(0, 1)
        base = points[0].teacher
        if base and (limit := base.gibberish_rate + MOST_GIBBERISH) < 1:
            axes.axhline(limit, color="0.35", linewidth=0.8, zorder=1)


def _tau_axis(axes: Axes, taus: list[float], least_end: float) -> None:
    """Ratios of temperatures count, so the axis is logarithmic; ticks at measured ones, as many as have room."""
    axes.set_xscale("log")
    axes.set_xlim(1, max(taus[-1], 1.05 * least_end, 1.2))
    low, high = axes.get_xaxis().get_transform().transform(axes.get_xlim())
    ticks: list[float] = []
    for tau in sorted(taus, key=lambda value: (value != taus[-1], value != int(value), value)):
        place = axes.get_xaxis().get_transform().transform([tau, *ticks])
        if all(abs(place[0] - other) > 2 * TICK_ROOM * (high - low) for other in place[1:]):
            ticks.append(tau)
    axes.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("temperature \u03c4")


def _handles(probe: Probe, rows: list[str]) -> list[Line2D]:
    handles = [Line2D([], [], label=NAMES[name], **look) for name, look in _series("nll").items() if probe.tokens[name]]
    if "teacher" in rows:
        looks_of = _series("teacher")
        handles += [
            Line2D([], [], label="ROUGE-L recall", **looks_of["rouge"]),
            Line2D([], [], label="gibberish rate", **looks_of["gibberish_rate"]),
            Line2D([], [], label="most gibberish allowed", color="0.35", linewidth=0.8),
        ]
    return handles + [Line2D([], [], label=label, **look) for _, look, label in _marks(probe)]


def _marks(probe: Probe) -> list[tuple[float, dict[str, Any], str]]:
    """The recommended temperature, and that of ``auto`` where it is another: place, look, label."""
    chosen = probe.recommended
    marks = [(chosen.tau, MARK, f"recommended \u03c4 = {chosen.tau:g}")] if chosen.tau else []
    if chosen.auto and chosen.auto != chosen.tau:
        marks.append((chosen.auto, AUTO, f"\u03c4 of \u2018auto\u2019 = {chosen.auto:.3g}"))
    return marks
