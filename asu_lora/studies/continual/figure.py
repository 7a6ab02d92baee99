"""The curves of a history: Avg against the step, and FE over everything forgotten so far, one line a method."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from asu_lora.reporting.plot_style import looks, new_figure, paper_style, save_figure

if TYPE_CHECKING:
    from asu_lora.studies.continual.step_records import StepRecord

PANELS = (("average", "Avg (MU and FE of the step)"), ("efficacy_so_far", "FE, everything so far"))


def continual_figure(records: "Mapping[str, Sequence[StepRecord]]") -> Figure:
    """Two panels (ASU, arXiv 2603.01285, has the first): scores in percent against the number of requests.

    The base before the first request stands at 0. A method's points keep its look in both panels.
    """
    with paper_style():
        figure, axes = new_figure(7.0, 2.6, columns=2, sharex=True)
        most = max((steps[-1].number for steps in records.values() if steps), default=1)
        for (key, title), axis in zip(PANELS, axes, strict=True):
            for (method, steps), look in zip(records.items(), looks(len(records)), strict=True):
                points = [(s.number, s.scores[key]) for s in steps if s.scores.get(key) is not None]
                if points:
                    axis.plot(*zip(*points, strict=True), label=method, **look)
            axis.set(xlabel="requests unlearned", ylabel="%", title=title, ylim=(0, 100))
            ticks = range(0, most + 1, max(1, -(-most // 10)))
            axis.set_xticks(ticks, ["base", *ticks[1:]])
        handles, labels = axes[0].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6))
        return figure


def save_curves(records: "Mapping[str, Sequence[StepRecord]]", stem: str | Path) -> list[Path]:
    """Save the figure as SVG, PDF and PNG; nothing where no method has scores."""
    if not records:
        return []
    with paper_style():
        return save_figure(continual_figure(records), stem)
