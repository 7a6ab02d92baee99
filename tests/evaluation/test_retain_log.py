"""asu-lora evaluate against other models' figures: forget quality, Min-K% AUC, and the harness that is an extra."""

import importlib.util
import json
import math

import pytest
from click.testing import CliRunner

from asu_lora.cli import main
from asu_lora.errors import DataError
from asu_lora.evaluation.lm_eval import figures
from asu_lora.evaluation.metrics.forget_quality import ks_two_sample
from asu_lora.evaluation.retain_comparison import retain_quality
from asu_lora.evaluation.retain_log import read_log
from tests.support.tiny_run import FACTS, rows

MACHINE = ("--precision", "fp32", "--device", "cpu")
OURS = [{"set": "forget", "question": f"q{i}", "truth_ratio": value} for i, value in enumerate([0.5, 2.0, 4.0])]


def jsonl(path, content):
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return str(path)


def test_forget_quality_against_own_records(tmp_path):
    theirs = [row | {"truth_ratio": value} for row, value in zip(OURS, [5.0, 6.0, 7.0], strict=True)]
    other = [{"set": "retain", "question": "x", "truth_ratio": 1.0}]
    found = retain_quality([*OURS, *other], read_log(jsonl(tmp_path / "log.jsonl", theirs + other)))
    assert found.value == ks_two_sample([0.5, 2.0, 4.0], [5.0, 6.0, 7.0])[1] == pytest.approx(0.1)
    without = [{key: value for key, value in row.items() if key != "truth_ratio"} for row in theirs]
    assert retain_quality(OURS, without).label("forget quality") == "forget quality (0 of 1 values)"


@pytest.mark.parametrize("shape", ["dicts", "lists", "aggregated"])
def test_forget_quality_against_tofus_own_log(tmp_path, shape):
    """The truth ratio from the losses, the truth above: TOFU's log has it the other way round."""
    log = {
        "avg_paraphrased_loss": {"0": 1.0, "1": 2.0},
        "average_perturb_loss": {"0": [2.0, 3.0], "1": [1.0, 1.0]},
        "truth_ratio": {"0": math.exp(-1.5), "1": math.exp(1.0)},
    }
    if shape == "lists":
        log = {name: list(value.values()) for name, value in log.items()}
    path = tmp_path / "log.json"
    path.write_text(json.dumps({"eval_log_forget.json": log} if shape == "aggregated" else log, indent=1))
    assert [row["truth_ratio"] for row in read_log(path)] == pytest.approx([math.exp(1.5), math.exp(-1.0)])
    log["average_perturb_loss"] = [None, None]
    path.write_text(json.dumps(log))
    with pytest.raises(DataError, match="broken TOFU log"):
        read_log(path)


def test_a_file_that_is_no_log_is_refused(tmp_path):
    with pytest.raises(DataError, match="--records"):
        read_log(jsonl(tmp_path / "questions.jsonl", rows()))


def test_the_command_compares_with_a_log_and_with_held_out_questions(taught_base, tmp_path):
    """Its own records as the log: nothing can be told apart, p is 1. Facts it knows against made-up ones: AUC 1."""
    full = {"paraphrased_answer": "Someone does.", "perturbed_answer": ["Someone sleeps."]}
    forget = jsonl(tmp_path / "forget.jsonl", [row | full for row in rows(FACTS[:4])])
    unseen = jsonl(tmp_path / "unseen.jsonl", rows([("Zed Quux", "eats soap"), ("Yan Kxw", "irons 9 xylophones")]))
    records = tmp_path / "records.jsonl"
    command = [
        "evaluate",
        "--base",
        str(taught_base),
        *MACHINE,
        "--forget",
        forget,
        "--records",
        str(records),
        "--json",
    ]
    first = CliRunner().invoke(main, [*command, "--holdout", unseen])
    assert first.exit_code == 0, first.output
    summary = json.loads(first.stdout)
    assert summary["scores"]["Min-40% AUC"]["value"] == 1.0 and "forget quality" not in summary["scores"]
    assert {"extraction_strength", "exact_memorization", "min_k", "gibberish"} <= set(summary["sets"]["forget"])
    written = [json.loads(line) for line in records.read_text().splitlines()]
    assert [row["set"] for row in written] == ["forget"] * 4 + ["holdout"] * 2
    assert min(r["min_k"] for r in written[:4]) > max(r["min_k"] for r in written[4:])
    log = tmp_path / "log.jsonl"
    records.rename(log)
    third = CliRunner().invoke(main, ["evaluate", "--base", "/nowhere", "--forget", unseen, "--retain-log", str(log)])
    assert third.exit_code == 2 and "4 of its 4 are not among the 2" in third.stderr
    second = CliRunner().invoke(main, [*command[:-1], "--retain-log", str(log)])
    assert second.exit_code == 0, second.output
    lines = [line for line in second.stdout.splitlines() if "forget quality" in line]
    assert len(lines) == 1 and [cell.strip() for cell in lines[0].split("│")][2] == "1"
    for metric in ("extraction strength", "exact memorization", "min k", "gibberish"):
        assert metric in second.stdout


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-evaluation-harness is installed")
def test_without_the_harness_the_command_says_how_to_install_it():
    result = CliRunner().invoke(main, ["evaluate", "--base", "/nowhere", "--lm-eval", "mmlu"])
    assert result.exit_code == 2
    assert "pip install 'asu-lora[lm-eval]'" in result.stderr and "Traceback" not in result.output


def test_the_harness_takes_what_it_is_called_with():
    import inspect

    harness = pytest.importorskip("lm_eval")
    from lm_eval.models.huggingface import HFLM

    assert {"model", "tasks", "log_samples", "bootstrap_iters"} <= set(
        inspect.signature(harness.simple_evaluate).parameters
    )
    assert {"pretrained", "tokenizer", "backend", "batch_size"} <= set(inspect.signature(HFLM).parameters)


def test_the_harness_figures_keep_their_filters():
    found = {
        "results": {
            "mmlu": {"alias": "mmlu", "acc,none": 0.25, "acc_stderr,none": "N/A", "sample_len": 9},
            "gsm8k": {"exact_match,strict-match": 0.5},
        }
    }
    assert figures(found) == {"mmlu": {"acc": 0.25}, "gsm8k": {"exact_match,strict-match": 0.5}}
