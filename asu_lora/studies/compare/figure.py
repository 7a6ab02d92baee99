"""Forget efficacy against model utility: one mark a method, lines of equal average."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from asu_lora.reporting.plot_labels import Box, place_labels
from asu_lora.reporting.plot_style import COLOURS, COLUMN, MARKERS, new_figure, paper_style
from asu_lora.studies.compare.ranking import pareto_front
from asu_lora.studies.compare.rows import Row
from asu_lora.studies.compare.table import common_label
from asu_lora.studies.methods import BASE, UNTRAINED

LABEL = 6.5  # points
FILLS = {"GD": "none", "AP": "left"}  # of the marks, by retain loss; others are filled


def compare_figure(results: Sequence[Row]) -> Figure:
    """The figure of done rows, one a method.

    A forget loss has one colour and shape; a retain loss fills it (kl), leaves it hollow (gd) or fills half (ap). Bars
    are 95 % intervals over seeds; a line joins the Pareto front.
    """
    points = [(100 * (result.score("MU") or 0.0), 100 * (result.score("FE") or 0.0)) for result in results]
    with paper_style():
        figure, axes = new_figure(COLUMN * 1.35, COLUMN * 1.15)
        axes.set_xlim(*limits(ends_of("MU", results)))
        axes.set_ylim(*limits(ends_of("FE", results)))
        axes.grid(False)
        equal_averages(axes)
        losses = list(dict.fromkeys(result.method.rpartition("_")[0] for result in results if result.lr is not None))
        for result, (x, y) in zip(results, points, strict=True):
            error_bars(axes, result, x, y)
            axes.plot(x, y, linestyle="none", clip_on=False, zorder=3, **mark(result.method, losses))
        join_front(axes, results, points)
        axes.set_xlabel(f"{common_label(results, 'MU').replace('MU', 'Model utility MU')}, %")
        axes.set_ylabel(f"{common_label(results, 'FE').replace('FE', 'Forget efficacy FE')}, %")
        label(figure, axes, points, [result.method for result in results])
    return figure


def ends_of(name: str, rows: Sequence[Row]) -> list[float]:
    """Where the marks' bars of a score end, percent; the marks themselves where they have none."""
    return [100 * ((row.score(name) or 0.0) + side * (row.spread(name) or 0.0)) for row in rows for side in (-1, 1)]


def error_bars(axes: Axes, row: Row, x: float, y: float) -> None:
    """Thin bars where the row has intervals."""
    wide, high = row.spread("MU"), row.spread("FE")
    if wide is not None and high is not None:
        axes.errorbar(x, y, xerr=100 * wide, yerr=100 * high, fmt="none", ecolor="0.55", elinewidth=0.6, zorder=2)


def join_front(axes: Axes, rows: Sequence[Row], points: Sequence[tuple[float, float]]) -> None:
    """A dotted line along the Pareto front, from the most forgetting to the most useful."""
    front = {id(row) for row in pareto_front(rows)}
    line = sorted(point for row, point in zip(rows, points, strict=True) if id(row) in front)
    if len(line) > 1:
        axes.plot(
            *zip(*line, strict=True), color="0.4", linewidth=0.7, linestyle=":", marker="none", zorder=1, label="front"
        )


def mark(method: str, losses: Sequence[str]) -> dict[str, Any]:
    """The look of a method's mark."""
    if method in UNTRAINED:
        star = {"marker": "*", "color": "#000000", "markersize": 8}
        return star if method == BASE else star | {"fillstyle": "none"}
    loss, _, retain = method.rpartition("_")
    at = losses.index(loss)
    return {
        "color": COLOURS[at % len(COLOURS)],
        "marker": MARKERS[at % (len(MARKERS) - 1)],
        "fillstyle": FILLS.get(retain, "full"),
    }


def limits(values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis: whole fives (ones, where the values are close) around the values, with room for labels."""
    low, high = min(values), max(values)
    room, unit = max(1.0, 0.15 * (high - low)), 5 if high - low > 10 else 1
    return max(-2.0, unit * math.floor((low - room) / unit)), min(102.0, unit * math.ceil((high + room) / unit))


def equal_averages(axes: Axes) -> None:
    """Thin lines on which (MU + FE) / 2 is the same, named where they leave the axes at the top or the right."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    lowest, highest = (left + bottom) / 2, (right + top) / 2
    step = next(step for step in (1, 2, 5, 10, 20) if highest - lowest <= 8 * step or step == 20)
    for average in range(step * math.ceil(lowest / step), int(highest) + 1, step):
        axes.plot(
            [left, right],
            [2 * average - left, 2 * average - right],
            color="0.8",
            linewidth=0.6,
            linestyle="-",
            marker="none",
            zorder=1,
            scalex=False,
            scaley=False,
        )
        style: dict[str, Any] = {
            "fontsize": 5.5,
            "color": "0.45",
            "annotation_clip": False,
            "textcoords": "offset points",
        }
        if bottom <= 2 * average - right <= top:
            axes.annotate(f"Avg {average}", (right, 2 * average - right), (2, 0), va="center", **style)
        elif left <= 2 * average - top <= right:
            axes.annotate(f"Avg {average}", (2 * average - top, top), (0, 2), ha="center", **style)


def label(figure: Figure, axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[str]) -> list[Text]:
    """Name each point where there is room, with a thin line to those that stand away."""
    figure.draw_without_rendering()  # the layout is settled now
    figure.set_layout_engine("none")
    points_a_pixel, renderer = 72 / figure.dpi, FigureCanvasAgg(figure).get_renderer()
    texts = [axes.text(0, 0, name, fontsize=LABEL, ha="left", va="bottom", zorder=4) for name in names]
    sizes = []
    for text in texts:
        extent = text.get_window_extent(renderer)
        sizes.append((extent.width * points_a_pixel, extent.height * points_a_pixel))
    middles = [tuple(axes.transData.transform(point) * points_a_pixel) for point in points]
    frame = axes.get_window_extent(renderer)
    bounds = Box(
        frame.x0 * points_a_pixel, frame.y0 * points_a_pixel, frame.x1 * points_a_pixel, frame.y1 * points_a_pixel
    )
    back = axes.transData.inverted()
    for text, box, (x, y) in zip(texts, place_labels(middles, sizes, bounds), middles, strict=True):
        left, bottom = back.transform((box.left / points_a_pixel, box.bottom / points_a_pixel))
        text.set_position((float(left), float(bottom)))
        near_x, near_y = min(max(x, box.left), box.right), min(max(y, box.bottom), box.top)
        if math.hypot(near_x - x, near_y - y) > 6:
            ends = back.transform(
                [(x / points_a_pixel, y / points_a_pixel), (near_x / points_a_pixel, near_y / points_a_pixel)]
            )
            axes.plot(
                *ends.T, color="0.5", linewidth=0.4, linestyle="-", marker="none", zorder=2, scalex=False, scaley=False
            )
    return texts
