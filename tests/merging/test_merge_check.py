"""merge --check: what a merged model has got back, at every precision, and exit code 3."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from asu_lora import forget
from asu_lora.bases.source import resolve_base
from asu_lora.cli import main
from asu_lora.cli.merge_tables import _stays_forgotten
from asu_lora.errors import SettingError
from asu_lora.evaluation.set_scores import score_set
from asu_lora.merging.check import CheckReport, CheckRow, _by_chance, check
from asu_lora.merging.merge import merge
from asu_lora.models.adapter_stack import load
from asu_lora.models.output_head import FrozenHead
from tests.support.tiny_run import FACTS, rows, tiny_request, tiny_settings


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Forget and retain questions as files."""
    folder = tmp_path_factory.mktemp("questions")
    for name, facts in (("forget", FACTS[:6]), ("retain", FACTS[-6:])):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows(facts))))
    return folder


def run(base, adapter, out, files, *more):
    return CliRunner().invoke(
        main,
        [
            "merge",
            "--base",
            str(base),
            "-a",
            str(adapter),
            "-o",
            str(out),
            "--check",
            str(files / "forget.jsonl"),
            "--check-retain",
            str(files / "retain.jsonl"),
            *more,
        ],
    )


def checked(result):
    return {(row["model"], row["precision"]): row for row in json.loads(result.stdout)["check"]["rows"]}


def test_a_base_in_fp4_is_told_as_that(taught_base, files, tmp_path):
    folder = shutil.copytree(taught_base, tmp_path / "fp4", ignore=shutil.ignore_patterns("model.safetensors"))
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4")
    stored = AutoModelForCausalLM.from_pretrained(taught_base, quantization_config=settings, device_map={"": "cpu"})
    stored.save_pretrained(folder)
    forget(tiny_request(), str(folder), tiny_settings(precision="nf4", epochs=20, lr=3e-3), name="a", store=tmp_path)
    result = run(folder, tmp_path / "a", tmp_path / "out", files, "-p", "nf4", "--tolerance", "1")
    assert "nf4" not in result.stdout and result.stdout.count("fp4") >= 4, result.output
    assert result.exit_code in (0, 3), result.output


def test_to_nearest_in_nf4_ends_with_3(taught_base, forgetting_adapter, files, tmp_path, nf4_compute):
    result = run(taught_base, forgetting_adapter, tmp_path / "out", files, "-p", "nf4", "--json")
    assert result.exit_code == 3, result.output
    table = checked(result)
    merged = table["merged", "nf4"]
    assert (merged["judged"], merged["verdict"]) == (True, "came back")
    assert max(merged["back"].values()) > 0.1
    assert not any(row["judged"] for key, row in table.items() if key != ("merged", "nf4"))
    int8 = table["merged", "int8"]  # it can't be run from 4 bit, and is in the table nevertheless
    assert (int8["verdict"], int8["forget"]) == ("not run", None)
    assert "4 bit" in int8["note"]


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_full_precision_ends_with_0_and_shows_what_four_bits_would_do(
    taught_base, forgetting_adapter, files, tmp_path, precision
):
    result = run(taught_base, forgetting_adapter, tmp_path / "out", files, "-p", precision, "--json")
    assert result.exit_code == 0, result.output
    table = checked(result)
    assert table["merged", precision]["verdict"] == "kept"
    assert table["merged", precision]["judged"]
    assert table["merged", "nf4"]["verdict"] == "came back"
    assert not table["merged", "nf4"]["judged"]
    assert table["merged", "int8"]["forget"] or "can't be run" in table["merged", "int8"]["note"]


def test_a_durable_merge_in_nf4_ends_with_0(taught_base, forgetting_adapter, files, tmp_path, nf4_compute):
    result = run(taught_base, forgetting_adapter, tmp_path / "out", files, "-p", "nf4", "--durable", "--json")
    assert result.exit_code == 0, result.output
    assert checked(result)["merged", "nf4"]["verdict"] == "kept"


def test_the_figures_are_those_of_the_models(taught_base, forgetting_adapter, files, tmp_path):
    request = tiny_request()
    merge(taught_base, [(forgetting_adapter, 1.0)], tmp_path / "out", "nf4")
    report = check(
        resolve_base(str(taught_base)),
        [(forgetting_adapter, 1.0)],
        tmp_path / "out",
        "nf4",
        request.forget,
        request.retain,
    )

    def figures_of(base, adapters=()):
        stack = load(str(base), adapters, precision="nf4", device="cpu")
        from asu_lora.data.encoding import Encoder

        head = FrozenHead(stack.base.model)
        found = score_set(stack.model, head, stack.base.tokenizer, Encoder(stack.base.tokenizer), request.forget)
        return {"probability": sum(found.probability) / 6, "rouge": sum(found.rouge) / 6}

    expected = [figures_of(taught_base), figures_of(taught_base, [forgetting_adapter]), figures_of(tmp_path / "out")]
    for row, figures in zip(report.rows, expected, strict=False):
        assert row.forget == pytest.approx(figures, abs=1e-6), row.model
    base, adapted, merged = expected
    for name, share in report.rows[2].back.items():
        assert share == pytest.approx((merged[name] - adapted[name]) / (base[name] - adapted[name]))


def test_one_figure_over_the_tolerance_is_enough():
    def report(**back):
        return CheckReport([CheckRow("merged", "nf4", {"probability": 0.5}, None, back, True)], 0.1)

    assert report(probability=0.05, rouge=-0.2).passed
    assert not report(probability=0.05, rouge=0.11).passed
    assert not report(probability=0.2).passed
    assert not report(probability=float("nan")).passed
    assert CheckReport(report(probability=0.2).rows, 0.9).passed


@pytest.mark.parametrize(
    ("moved", "by_chance"),
    [
        ([0.1, 0, 0, 0, 0, 0, 0, 0], True),  # one word of eight answers
        ([0.2, -0.1, 0.1, 0, 0, -0.1, 0.1, 0], True),
        ([0.3, 0.4, 0.2, 0.5, 0, 0.3, 0.2, 0.1], False),  # what was forgotten, told again
        ([0.1] * 8, False),
        ([0.0] * 8, False),
        ([0.9, 0, 0, 0, 0, 0, 0, 0], False),  # one answer of eight, but all of it
        ([float("nan"), 0.1], False),
        ([0.3], False),  # of one question there is no interval: it is judged as it is
    ],
)
def test_a_word_of_few_answers_is_chance(moved, by_chance):
    assert _by_chance(np.array(moved)) is by_chance


def test_what_chance_may_have_moved_decides_nothing():
    def report(back, chance):
        return CheckReport([CheckRow("merged", "nf4", {"rouge": 0.5}, None, back, True, chance=chance)], 0.1)

    assert report({"probability": 0.05, "rouge": 0.3}, ("rouge",)).passed
    assert not report({"probability": 0.2, "rouge": 0.3}, ("rouge",)).passed
    assert report({"rouge": 0.3}, ("rouge",)).passed
    untold = report({"rouge": 1.0}, ("rouge",))  # no other figure is judged
    assert untold.passed and not untold.told and untold.verdict(untold.rows[0]) == "can't tell"
    assert _stays_forgotten(None, untold).startswith("Check: these questions are too few to tell")
    assert report({"probability": 0.05, "rouge": 0.3}, ("rouge",)).told
    assert report({"probability": 0.05, "rouge": 0.3}, ("rouge",)).as_dict()["rows"][0]["chance"] == ("rouge",)


def test_an_adapter_that_forgot_none_of_it_can_not_be_judged(taught_base, forgetting_adapter, files, tmp_path):
    request = tiny_request()
    merge(taught_base, [(forgetting_adapter, 0.0)], tmp_path / "out", "bf16")
    with pytest.raises(SettingError, match="nothing can be judged"):
        check(resolve_base(str(taught_base)), [(forgetting_adapter, 0.0)], tmp_path / "out", "bf16", request.forget)
    told = run(taught_base, f"{forgetting_adapter}:0", tmp_path / "other", files, "--json")
    assert told.exit_code == 2 and "nothing can be judged" in told.stderr and "whole and unchecked" in told.stderr
    assert json.loads(told.stdout)["out"] == str(tmp_path / "other") and (tmp_path / "other").is_dir()


def test_the_table_is_for_people(taught_base, forgetting_adapter, files, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    result = run(taught_base, forgetting_adapter, tmp_path / "out", files, "-p", "nf4")
    assert result.exit_code == 3
    for words in ("base + adapters", "came back (written)", "not run", "exit code 3"):
        assert words in result.stdout
    assert "Birk" not in result.stdout + result.stderr


def test_a_merge_that_must_not_be_quantised_afterwards_says_so(taught_base, forgetting_adapter, files, tmp_path):
    result = run(taught_base, forgetting_adapter, tmp_path / "out", files, "-p", "bf16")
    [said] = [line for line in result.stdout.splitlines() if line.startswith("Check: ")]
    assert result.exit_code == 0 and "stays forgotten in bf16" in said
    assert "nf4 it comes back" in said


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--durable", "-p", "bf16"), "--precision nf4"),
        (("--residual-rank", "2", "-p", "nf4"), "goes with --durable"),
        (("--calibration", "f.jsonl"), "goes with --durable"),
        (("--check", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--tolerance", "2"), "2"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(taught_base, forgetting_adapter, files, tmp_path, more, words):
    result = run(taught_base, forgetting_adapter, tmp_path / "out", files, *more)
    assert result.exit_code == 2
    assert words in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_tolerance_of_no_check_is_refused(forgetting_adapter, tmp_path):
    words = ["merge", "-a", str(forgetting_adapter), "-o", str(tmp_path / "out"), "--tolerance", "0.1"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2 and "--tolerance goes with --check" in result.stderr


def test_durable_and_check_retain_need_questions(taught_base, forgetting_adapter, files, tmp_path):
    words = [
        "merge",
        "--base",
        str(taught_base),
        "-a",
        str(forgetting_adapter),
        "-o",
        str(tmp_path / "out"),
        "-p",
        "nf4",
    ]
    for more in (["--durable"], ["--check-retain", str(files / "retain.jsonl")]):
        result = CliRunner().invoke(main, words + more)
        assert result.exit_code == 2
        assert "--check" in result.stderr
    assert not (tmp_path / "out").exists()
