"""The probe's command, its tables and its figure, in which nothing overlaps."""

import csv
import json
import math
from itertools import pairwise

import pytest
from click.testing import CliRunner

from asu_lora.cli import main
from asu_lora.data.examples import examples_from_rows
from asu_lora.studies.probe.figure import probe_figure
from asu_lora.studies.probe.grid import DEFAULT_GROUPS, DEFAULT_TAUS, layer_groups, parse_taus
from asu_lora.studies.probe.points import CLASSES, ProbePoint
from asu_lora.studies.probe.probe import Probe
from asu_lora.studies.probe.recommendation import Recommendation
from asu_lora.studies.probe.teacher_answers import TeacherAnswers
from tests.support.tiny_run import FACTS, rows

EXAMPLES = examples_from_rows(rows(), "rows")


def made_up(groups, taus, recommended=6.5, auto=7.0):
    """A probe with curves of plausible shape, for the figure alone."""

    def point(tau):
        heat = math.log(tau)
        return ProbePoint(
            tau,
            {"factual": 2 * heat, "function": heat, "copied": None},
            dict.fromkeys(CLASSES, 2 + heat),
            heat,
            heat,
            TeacherAnswers(1 / tau, 1 - 1 / tau, 0.0),
        )

    return Probe(
        "base",
        "nf4",
        40,
        20,
        "apart",
        {"factual": 9, "function": 9, "copied": 0},
        [(group, [point(tau) for tau in taus]) for group in groups],
        Recommendation(groups[-1].name, recommended, auto, "Because."),
    )


@pytest.mark.parametrize(
    ("groups", "grid"), [(DEFAULT_GROUPS, DEFAULT_TAUS), (("upper",), "1:16:0.25"), (("all", "upper"), "1,6")]
)
def test_nothing_overlaps_in_the_figure(groups, grid):
    figure = probe_figure(made_up(layer_groups(groups, 30), parse_taus(grid)))
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    legend = figure.legends[0].get_window_extent(renderer)
    assert figure.bbox.contains(legend.x0, legend.y0) and figure.bbox.contains(legend.x1, legend.y1)
    titles = []
    for axes in figure.axes:
        assert axes.get_tightbbox(renderer).y0 >= legend.y1
        labels = [text.get_window_extent(renderer) for text in axes.get_xticklabels() if text.get_text()]
        assert all(left.x1 < right.x0 for left, right in pairwise(labels))
        assert axes.get_title() == "" or titles.append(axes.title.get_window_extent(renderer)) is None
    assert all(left.x1 < right.x0 for left, right in pairwise(titles))
    for tau in (6.5, 7.0):
        marks = [line for axes in figure.axes for line in axes.lines if list(line.get_xdata()) == [tau, tau]]
        assert len(marks) == 3 and all(line.axes.get_xlim()[1] > tau for line in marks)


@pytest.fixture
def asked(taught_base, tmp_path, monkeypatch):
    """Run ``asu-lora probe`` in an empty folder with a request in it."""
    monkeypatch.chdir(tmp_path)
    request = [row | {"task_id": str(i % 2)} for i, row in enumerate(rows())]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in request))

    def asked(*words):
        return CliRunner().invoke(
            main, ["probe", "--base", str(taught_base), "--precision", "fp32", "--device", "cpu", *words]
        )

    return asked


def test_the_command_writes_figure_and_tables(asked, tmp_path):
    result = asked(
        "r.jsonl",
        "--where",
        "task_id=1",
        "--tau",
        "1:2:0.5",
        "--layers",
        "all",
        "--layers",
        "1",
        "--answers",
        "3",
        "--out",
        "new/folder",
        "--json",
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    folder = tmp_path / "new" / "folder"
    assert found == json.loads((folder / "probe.json").read_text())
    assert {p.name for p in folder.iterdir()} == {f"probe.{kind}" for kind in ("json", "csv", "svg", "pdf", "png")}
    assert found["rows"] == 6 and found["answers"] == 3
    assert [g["layers"] for g in found["groups"]] == [[0, 1], [1]]
    with (folder / "probe.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["group"], row["tau"]) for row in table] == [
        (g, t) for g in ("all", "1") for t in ("1.0", "1.5", "2.0")
    ]
    for row, point in zip(table, (p for g in found["groups"] for p in g["points"]), strict=True):
        assert all(float(row[name]) == value for name, value in point.items())  # nothing is missing
    assert set(found["recommended"]) == {"layers", "tau", "auto", "reason", "own_answers", "auto_own_answers", "curve"}
    for file in folder.glob("probe.[jcs]*"):
        assert not any(word in file.read_text() for name, does in FACTS for word in (name, does)), "the request's text"


def test_the_command_prints_tables_and_the_recommended_tau(asked):
    result = asked("r.jsonl", "--tau", "2", "--layers", "all", "--questions", "4", "--answers", "2")
    assert result.exit_code == 0, result.output
    assert "Layers all (0-1)" in result.stdout and "Recommended for layers 'all': tau " in result.stdout
    assert "gibber." in result.stdout and "4 rows" in result.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["r.jsonl", "--tau", "4:1:1"], "The grid of temperatures '4:1:1' should rise"),
        (["r.jsonl", "--tau", "0.5"], "a temperature is at least 1"),
        (["r.jsonl", "--layers", "9"], "the base has layers 0 to 1"),
        (["r.jsonl", "--layers", "top"], "can't be read"),
        (["empty.jsonl"], "empty.jsonl holds no rows"),
        (["nothing.jsonl"], "There is no file nothing.jsonl"),
        (["spans.jsonl"], "'spans' of row 1: the answer doesn't hold the text 'wasps'."),
        (["r.jsonl", "--out", "r.jsonl/below"], "r.jsonl/below can't be changed"),
    ],
)
def test_bad_input_is_one_sentence(asked, tmp_path, words, message):
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "spans.jsonl").write_text(json.dumps(rows()[0] | {"spans": ["wasps"]}))
    result = asked(*words)
    assert result.exit_code == 2 and result.stdout == "" and "Traceback" not in result.stderr, result.output
    last = result.stderr.rstrip().splitlines()[-1]
    assert last.startswith("Error: ") and message in last
