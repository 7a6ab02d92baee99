"""The table of a comparison, in the paper's form: MU, FE and Avg in percent, best bold, second underlined."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from asu_lora.evaluation.question_sets import FORGET, RETAIN
from asu_lora.reporting.tables import csv_table, markdown_table, percent
from asu_lora.studies.compare.results import SCORES, RunResult
from asu_lora.studies.methods import BASE, lr_text

BEST, SECOND = "best", "second"
BESIDE = (
    ("forget ROUGE", FORGET, "rouge"),
    ("forget probability", FORGET, "probability"),
    ("retain ROUGE", RETAIN, "rouge"),
    ("retain probability", RETAIN, "probability"),
)


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


def paper_table(results: Sequence[RunResult]) -> Table:
    """One row a run. A score that lacks metrics is named with what it holds; the base takes no part in best and
    second, for it forgets nothing. Scores that read alike share their mark."""
    labels = {name: common_label(results, name) for name in SCORES}
    columns = ("method", *labels.values(), *(title for title, _, _ in BESIDE), "gibberish", "lr", "seconds")
    marks = {name: ranks(results, name, label) for name, label in labels.items()}
    rows = []
    for index, result in enumerate(results):
        if not result.done:
            scores = [Cell("failed"), Cell("-"), Cell("-")]
        else:
            scores = [
                Cell(
                    percent(result.score(name))
                    + ("" if result.label(name) == labels[name] else result.label(name).removeprefix(name)),
                    marks[name].get(index),
                )
                for name in SCORES
            ]
        beside = [result.mean(questions, metric) for _, questions, metric in BESIDE] + [result.gibberish_rate()]
        rows.append(
            [
                Cell(result.method),
                *scores,
                *(Cell("-" if value is None else percent(value)) for value in beside),
                Cell("-" if result.lr is None else lr_text(result.lr)),
                Cell(f"{result.total_seconds():.0f}"),
            ]
        )
    return Table(columns, rows)


def common_label(results: Sequence[RunResult], name: str) -> str:
    """What most runs can call this score: ``"MU"``, or ``"MU (5 of 6 metrics)"``."""
    labels = Counter(result.label(name) for result in results if result.done)
    return labels.most_common(1)[0][0] if labels else name


def ranks(results: Sequence[RunResult], name: str, label: str) -> dict[int, str]:
    """Which of the results have the best and the second-best score, of those that hold the same metrics."""
    shown = {
        index: float(percent(result.score(name)))
        for index, result in enumerate(results)
        if result.method != BASE and result.done and result.score(name) is not None and result.label(name) == label
    }
    places = dict(zip(sorted(set(shown.values()), reverse=True), (BEST, SECOND), strict=False))
    return {index: places[value] for index, value in shown.items() if value in places}


def csv_text(results: Sequence[RunResult], kept: Sequence[RunResult]) -> str:
    """Every run a line, in full precision, shares as shares; a partial score's label says so."""
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
                "yes" if result in kept else "no",
                result.state,
                *scores,
                *(result.mean(questions, metric) for _, questions, metric in BESIDE),
                result.gibberish_rate(),
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
            "tau",
            "training seconds",
            "evaluation seconds",
            "adapter",
            "failure",
        ],
        rows,
    )
