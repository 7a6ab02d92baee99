"""asu-lora continual: table and figure of every method, or one sentence and nothing left."""

import json
from dataclasses import asdict

import pytest
from click.testing import CliRunner

from asu_lora.cli import main
from asu_lora.studies.continual.figure import continual_figure
from tests.support.tiny_run import tiny_settings

PNG = b"\x89PNG"


@pytest.fixture
def command(files, taught_base, tmp_path):
    words = [
        "continual",
        "--requests",
        str(files[0]),
        "--by",
        "ticket",
        "--retain",
        str(files[1]),
        "--base",
        str(taught_base),
        "--out",
        str(tmp_path / "out"),
    ]
    for key, value in asdict(tiny_settings(epochs=1, warmup=0.0)).items():
        if key in (
            "tau",
            "rank",
            "lr",
            "epochs",
            "batch_size",
            "eval_rows",
            "precision",
            "device",
            "smooth_layers",
            "warmup",
        ):
            words += [f"--{key.replace('_', '-')}", str(value)]
    return words


def test_the_command_writes_table_and_figure_of_every_method(command, tmp_path):
    words = [*command, "--steps", "2", "--method", "ASU_KL,GA_GD=1e-4", "--questions", "1", "--take-back", "1"]
    result = CliRunner().invoke(main, [*words, "--json"])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert list(printed) == ["ASU_KL", "GA_GD", "taken_back"] and [r["number"] for r in printed["ASU_KL"]] == [0, 1, 2]
    assert printed["ASU_KL"][0]["scores"] == printed["GA_GD"][0]["scores"]  # one base
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        "ASU_KL",
        "GA_GD",
        *(f"continual.{kind}" for kind in ("csv", "json", "md", "svg", "pdf", "png")),
    }
    lines = (out / "continual.csv").read_text().splitlines()
    assert len(lines) == 7 and lines[1].startswith("ASU_KL,0,")
    assert (out / "continual.png").read_bytes().startswith(PNG)
    assert "ASU_KL: from step 1 to step 2, Avg" in (out / "continual.md").read_text()
    for path in out.rglob("*"):
        if path.is_file():
            assert not any(word in path.read_bytes() for word in (b"Anna Birk", b"keeps bees", b"Zorba"))
    assert "GA_GD: step 1 taken back" in (out / "continual.md").read_text()
    again = CliRunner().invoke(main, words)
    assert again.exit_code == 2 and "--resume" in again.stderr and "Traceback" not in again.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "ASU_XX"], "no method 'ASU_XX'"),
        (["--by", "nobody"], "no column 'nobody'"),
        (["--consolidate-rank", "4"], "consolidate_every"),
        (["--mode", "running", "--consolidate-every", "2"], "running"),
        (["--requests", "nowhere.jsonl"], "no file nowhere.jsonl"),
        (["--data", "nowhere"], "no TOFU folder"),
        (["--mode", "fitted"], "add --adds-up"),
        (["--take-back", "4"], "Step 4 can't be taken back"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(command, tmp_path, words, said):
    result = CliRunner().invoke(main, [*command, *words])
    assert result.exit_code == 2 and said in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_figure_has_a_line_a_method_in_each_panel():
    from asu_lora.studies.continual.step_records import StepRecord

    records = {
        method: [
            StepRecord(i, "x", scores={"average": 50.0 + i, "efficacy_so_far": None if i == 0 else 70.0})
            for i in range(4)
        ]
        for method in ("ASU_KL", "NPO_GD")
    }
    figure = continual_figure(records)
    left, right = figure.axes
    assert [line.get_label() for line in left.lines] == ["ASU_KL", "NPO_GD"]
    assert list(left.lines[0].get_ydata()) == [50, 51, 52, 53] and list(right.lines[0].get_xdata()) == [1, 2, 3]
