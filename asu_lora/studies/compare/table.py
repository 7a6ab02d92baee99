"""The table of a comparison, in the paper's form: MU, FE and Avg in percent, best bold, second underlined."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from asu_lora.evaluation.question_sets import FORGET, RETAIN
from asu_lora.reporting.tables import csv_table, markdown_table, percent
from asu_lora.studies.compare.ranking import pareto_front, that_speak
from asu_lora.studies.compare.results import LEAK, QUALITY, SCORES, RunResult
from asu_lora.studies.compare.rows import Row, SeedRow
from asu_lora.studies.compare.speech import FORGOTTEN, KEPT
from asu_lora.studies.methods import shown as lr_shown

BEST, SECOND = "best", "second"
BESIDE = (
    ("forget ROUGE", FORGET, "rouge"),
    ("forget probability", FORGET, "probability"),
    ("retain ROUGE", RETAIN, "rouge"),
    ("retain probability", RETAIN, "probability"),
)
SPOKEN = tuple((f"{what}, {kind}", kind, what) for what in ("gibberish", "repetition") for kind in (KEPT, FORGOTTEN))
AGAINST: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("worst leak", LEAK, percent),
    ("forget quality", QUALITY, "{:.2g}".format),
)
FRONT = "†"  # on the Pareto front of MU and FE


@dataclass(frozen=True)
class Cell:
    """A cell's text, and whether it is its column's ``best`` or ``second``."""

    text: str
    mark: str | None = None


@dataclass(frozen=True)
class Table:
    """Columns and rows, ready for a terminal or Markdown."""

    columns: tuple[str, ...]
    rows: list[list[Cell]]

    def markdown(self) -> str:
        """As Markdown: **best**, <u>second</u>."""
        shown = {BEST: "**{}**", SECOND: "<u>{}</u>", None: "{}"}
        return markdown_table(self.columns, [[shown[cell.mark].format(cell.text) for cell in row] for row in self.rows])


def paper_table(results: Sequence[Row]) -> Table:
    """One row a run, or a method's runs with several seeds.

    A score that lacks metrics is named with what it holds; the base and a reference take no part in best and second.
    Where a row has several seeds, each says how many. Scores that read alike share their mark. A method on the Pareto
    front has a dagger.
    """
    labels = {name: common_label(results, name) for name in SCORES}
    against = [(title, what, shown) for title, what, shown in AGAINST if any(what in r.known() for r in results)]
    several = any(result.seeds > 1 for result in results)
    columns = (
        *("method", *labels.values()),
        *(title for title, _, _ in BESIDE),
        *(title for title, _, _ in SPOKEN),
        *(title for title, _, _ in against),
        *(("lr", "seeds") if several else ("lr",)),
        *("seconds", "MB"),
    )
    marks = {name: ranks(results, name, label) for name, label in labels.items()}
    front = {id(row) for row in pareto_front(results)}
    rows = []
    for index, result in enumerate(results):
        scores = [Cell(score_text(result, name, labels[name]), marks[name].get(index)) for name in SCORES]
        if not result.done:
            scores = [Cell("failed"), Cell("-"), Cell("-")]
        beside = [result.mean(questions, metric) for _, questions, metric in BESIDE]
        beside += [result.spoken(kind, what) for _, kind, what in SPOKEN]
        memory = result.peak_bytes()
        rows.append(
            [
                Cell(f"{result.method} {FRONT}" if id(result) in front else result.method),
                *scores,
                *(Cell("-" if value is None else percent(value)) for value in beside),
                *(
                    Cell("-" if (value := result.held_against(what)) is None else shown(value))
                    for _, what, shown in against
                ),
                Cell("-" if result.lr is None else lr_shown(result.lr)),
                *([Cell("-" if result.lr is None else str(result.seeds))] if several else []),
                Cell(f"{result.total_seconds():.0f}"),
                Cell("-" if memory is None else f"{memory / 1e6:.0f}"),
            ]
        )
    return Table(columns, rows)


def score_text(row: Row, name: str, label: str) -> str:
    """A score in percent, with what it holds if that is not the column's, and half its interval over seeds."""
    if not row.done:
        return "-"
    spread = row.spread(name)
    return (
        percent(row.score(name))
        + ("" if spread is None else f" ± {percent(spread)}")
        + ("" if row.label(name) == label else row.label(name).removeprefix(name))
    )


def speaking_table(rows: Sequence[Row]) -> Table:
    """The second ranking: by Avg, those whose kept answers are sentences."""
    places = [
        [
            Cell(str(place)),
            Cell(row.title),
            *(Cell(score_text(row, name, row.label(name))) for name in ("Avg", "MU", "FE")),
            Cell(percent(1 - (row.spoken(KEPT, "gibberish") or 0.0))),
        ]
        for place, row in enumerate(that_speak(rows), start=1)
    ]
    return Table(("place", "method", "Avg", "MU", "FE", "sentences, kept"), places)


def common_label(results: Sequence[Row], name: str) -> str:
    """What most runs can call this score: ``"MU"``, or ``"MU (5 of 6 metrics)"``."""
    labels = Counter(result.label(name) for result in results if result.done)
    return labels.most_common(1)[0][0] if labels else name


def ranks(results: Sequence[Row], name: str, label: str) -> dict[int, str]:
    """Which of the results have the best and the second-best score, of those that hold the same metrics."""
    shown = {
        index: float(percent(result.score(name)))
        for index, result in enumerate(results)
        if result.lr is not None and result.done and result.score(name) is not None and result.label(name) == label
    }
    places = dict(zip(sorted(set(shown.values()), reverse=True), (BEST, SECOND), strict=False))
    return {index: places[value] for index, value in shown.items() if value in places}


def csv_text(results: Sequence[RunResult], kept: Sequence[Row]) -> str:
    """Every run a line, in full precision, shares as shares; a partial score's label says so.

    Args:
        kept: each method's best row; its runs are marked.
    """
    best = {id(run) for row in kept for run in (row.results if isinstance(row, SeedRow) else [row])}
    scored = [column for name in SCORES for column in (name, f"{name} label")]
    rows = []
    for result in results:
        scores = [
            value
            for name in SCORES
            for value in ((result.score(name), result.label(name)) if result.done else (None, None))
        ]
        rows.append(
            [
                result.method,
                result.lr,
                "yes" if id(result) in best else "no",
                result.state,
                *scores,
                *(result.mean(questions, metric) for _, questions, metric in BESIDE),
                result.gibberish_rate(),
                *(result.spoken(kind, what) for _, kind, what in SPOKEN),
                *(result.held_against(what) for _, what, _ in AGAINST),
                json.dumps(result.changes, sort_keys=True) if result.changes else None,
                result.peak_bytes(),
                result.training.get("tau"),
                result.seconds.get("training"),
                result.seconds.get("evaluation"),
                result.adapter,
                result.failure,
            ]
        )
    return csv_table(
        [
            "method",
            "lr",
            "kept",
            "state",
            *scored,
            *(title for title, _, _ in BESIDE),
            "gibberish",
            *(title for title, _, _ in SPOKEN),
            *(title for title, _, _ in AGAINST),
            "changes",
            "peak memory bytes",
            "tau",
            "training seconds",
            "evaluation seconds",
            "adapter",
            "failure",
        ],
        rows,
    )
