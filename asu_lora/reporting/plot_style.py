"""What every figure shares: size, type, marks that grey printing keeps apart, and the files it is saved as."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLUMN = 3.4  # inches: one column of a two-column page; two are 7.0
FORMATS = ("svg", "pdf", "png")
# Okabe and Ito's colours, safe for colour-blind readers, in an order whose greys differ from one to the next
COLOURS = ("#0072B2", "#E69F00", "#000000", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
LINES = ("-", "--", "-.", ":")

_SETTINGS = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.4,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "svg.fonttype": "none",
    "svg.hashsalt": "asu-lora",
    "pdf.fonttype": 42,
    "figure.constrained_layout.use": True,
}


@contextmanager
def paper_style() -> Iterator[None]:
    """Inside, figures look alike; a caller's own matplotlib settings come back afterwards."""
    with matplotlib.rc_context(dict(_SETTINGS)):  # type: ignore[arg-type]  # their keys are one long Literal
        yield


def new_figure(width: float = COLUMN, height: float = 2.6, rows: int = 1, columns: int = 1, **kwargs):
    """A figure and its axes (as ``plt.subplots``), without pyplot: no window, no global state.

    Args:
        width, height: inches.
    """
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **kwargs)


def looks(number: int) -> list[dict]:
    """``number`` looks (colour, marker, line style) for as many series, told apart in grey too."""
    found = zip(cycle(COLOURS), cycle(MARKERS), cycle(LINES), strict=False)
    return [
        {"color": colour, "marker": marker, "linestyle": line}
        for (colour, marker, line), _ in zip(found, range(number), strict=False)
    ]


def save_figure(figure: Figure, stem: str | Path) -> list[Path]:
    """Write ``stem.svg``, ``stem.pdf`` and ``stem.png``; the same figure gives the same bytes.

    Returns:
        The files written.
    """
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for kind in FORMATS:
        path = stem.with_name(f"{stem.name}.{kind}")
        dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
        figure.savefig(path, metadata=dated)
        written.append(path)
    return written
