"""asu-lora evaluate against other models' figures: forget quality, Min-K% AUC, and the harness that is an extra."""

import importlib.util
import json
import math

import pytest
from click.testing import CliRunner

from asu_lora.cli import main
from asu_lora.data.examples import examples_from_rows
from asu_lora.errors import DataError
from asu_lora.evaluation.lm_eval import figures
from asu_lora.evaluation.metrics.forget_quality import ks_two_sample
from asu_lora.evaluation.question_sets import QuestionSet
from asu_lora.evaluation.retain_comparison import check_questions, leakage, retain_quality
from asu_lora.evaluation.retain_log import read_log
from tests.support.jsonl import jsonl
from tests.support.tiny_run import FACTS, rows

MACHINE = ("--precision", "fp32", "--device", "cpu")
OURS = [{"set": "forget", "question": f"q{i}", "truth_ratio": value} for i, value in enumerate([0.5, 2.0, 4.0])]


def test_forget_quality_against_own_records(tmp_path):
    theirs = [row | {"truth_ratio": value} for row, value in zip(OURS, [5.0, 6.0, 7.0], strict=True)]
    other = [{"set": "retain", "question": "x", "truth_ratio": 1.0}]
    found = retain_quality([*OURS, *other], read_log(jsonl(tmp_path / "log.jsonl", theirs + other)))
    assert found.value == ks_two_sample([0.5, 2.0, 4.0], [5.0, 6.0, 7.0])[1] == pytest.approx(0.1)
    without = [{key: value for key, value in row.items() if key != "truth_ratio"} for row in theirs]
    assert retain_quality(OURS, without).label("forget quality") == "forget quality (0 of 1 values)"


def test_intervals_draw_the_same_questions_of_both_models_however_the_log_is_ordered():
    ours = [
        {"set": name, "question": f"q{i // 2}", "truth": f"a{i}", "truth_ratio": float(i), "min_k": i % 7 + 0.1 * i}
        for name in ("forget", "holdout")
        for i in range(20)
    ]
    theirs = [row | {"truth_ratio": row["truth_ratio"] + 3, "min_k": row["min_k"] ** 2 / 9} for row in ours]
    asked, turned = retain_quality(ours, theirs), retain_quality(ours, theirs[::-1])
    assert turned == asked and asked.interval[0] > 0.01
    sides, other = (
        [[r for r in rows if r["set"] == name] for name in ("forget", "holdout")] for rows in (ours, theirs)
    )
    assert leakage(sides, [side[::-1] for side in other]) == leakage(sides, other)


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


def open_unlearning(count=4):
    """What open-unlearning writes to TOFU_EVAL.json, as far as it is read: scores by the question's number."""
    true = [0.5 + 0.1 * i for i in range(count)]
    wrong = [[1.0 + 0.2 * i, 2.0] for i in range(count)]

    def by_index(entries):
        return {"agg_value": 0.5, "value_by_index": {str(i): entry for i, entry in enumerate(entries)}}

    scores = [math.exp(-sum(w) / 2) / (math.exp(-t) + 1e-10) for t, w in zip(true, wrong, strict=True)]
    attack = {
        name: by_index([{"score": 3.0 + i + shift} for i in range(count)])
        for name, shift in (("forget", 0), ("holdout", 1))
    }
    log = {
        "forget_truth_ratio": by_index([{"score": score} for score in scores]),
        "forget_Q_A_PARA_Prob": by_index([{"prob": math.exp(-t), "avg_loss": t} for t in true]),
        "forget_Q_A_PERT_Prob": by_index([{"prob": [math.exp(-x) for x in w], "avg_loss": w} for w in wrong]),
        "forget_Q_A_ROUGE": by_index(
            [{"rougeL_recall": 1.0, "ground_truth": f"It is  Ada {i} ."} for i in range(count)]
        ),
        "mia_min_k": attack | {"auc": 0.6, "agg_value": 0.6},
        "model_utility": {"agg_value": 0.6},
    }
    return log, [math.exp(sum(w) / 2 - t) for t, w in zip(true, wrong, strict=True)]


def own_questions(count, answer="It is Ada {i}."):
    asked = [{"question": f"Who is number {i}?", "answer": answer.format(i=i)} for i in range(count)]
    return [QuestionSet("forget", tuple(examples_from_rows(asked, "asked")))]


@pytest.mark.parametrize("losses", [True, False])
def test_open_unlearnings_log_is_read(tmp_path, losses):
    """Its truth ratio has the truth below; its Min-K is a negative log-probability."""
    log, ratios = open_unlearning()
    if not losses:
        log = {name: value for name, value in log.items() if "Prob" not in name}
    path = tmp_path / "TOFU_EVAL.json"
    path.write_text(json.dumps(log, indent=4))
    records = read_log(path)
    forget, holdout = ([row for row in records if row["set"] == name] for name in ("forget", "holdout"))
    assert [row["truth_ratio"] for row in forget] == pytest.approx(ratios, rel=1e-6)
    assert [row["min_k"] for row in forget] == [-3.0, -4.0, -5.0, -6.0] and len(holdout) == 4
    check_questions(records, own_questions(4), examples_from_rows(rows(FACTS[:4]), "held out"))
    for other in (own_questions(3), own_questions(40), own_questions(4, "It is Bob {i}.")):
        with pytest.raises(DataError, match="evaluate both on the same"):
            check_questions(records, other)
    with pytest.raises(DataError, match="held-out"):
        check_questions(records, own_questions(4), examples_from_rows(rows(FACTS[:3]), "held out"))
    ours = [{"set": "forget", "truth_ratio": value} for value in (0.5, 2.0, 4.0, 8.0)]
    assert retain_quality(ours, records).value == ks_two_sample([0.5, 2.0, 4.0, 8.0], ratios)[1]


def test_a_broken_log_of_open_unlearning_is_refused(tmp_path):
    log, _ = open_unlearning()
    path = tmp_path / "EVAL.json"
    for name in ("forget_Q_A_PARA_Prob", "mia_min_k"):
        path.write_text(json.dumps(log | {name: {"value_by_index": {"0": 1}, "forget": {"value_by_index": {"0": 1}}}}))
        if name == "forget_Q_A_PARA_Prob":
            assert read_log(path)  # other questions than the wrong answers': its own scores are taken
        else:
            with pytest.raises(DataError, match="broken log of open-unlearning"):
                read_log(path)
    path.write_text(json.dumps({"forget_quality": 0.5, "model_utility": 0.6}))  # TOFU_SUMMARY.json
    with pytest.raises(DataError, match="TOFU_SUMMARY"):
        read_log(path)


def test_forget_quality_refuses_another_number_of_questions(tmp_path):
    """TOFU's 400 questions of forget10 against 40 of forget01 gave p = 2.4e-6."""
    log = {"avg_paraphrased_loss": [1.0] * 400, "average_perturb_loss": [[2.0]] * 400}
    path = tmp_path / "log.json"
    path.write_text(json.dumps(log))
    theirs, ours = read_log(path), [{"set": "forget", "truth_ratio": 1.0}] * 40
    with pytest.raises(DataError, match="400"):
        check_questions(theirs, own_questions(40))
    with pytest.raises(DataError, match="400 truth ratios, this evaluation 40"):
        retain_quality(ours, theirs)


def test_own_records_of_other_answers_or_other_repetitions_are_refused():
    def records(questions):
        return [{"set": "forget", "question": e.question, "truth": e.answer} for e in questions[0].examples]

    check_questions(records(own_questions(4)), own_questions(4))
    others = (records(own_questions(4, "It is Bob {i}.")), records(own_questions(4)) * 2, records(own_questions(5)))
    for other in others:
        with pytest.raises(DataError, match="other questions"):
            check_questions(other, own_questions(4))


def test_tofus_own_log_tells_its_answers(tmp_path):
    log = {"avg_paraphrased_loss": {"0": 1.0}, "average_perturb_loss": {"0": [2.0]}}
    log["generated_text"] = {"0": ["Who is number 0?", "She.", "It is Ada 0."]}
    path = tmp_path / "log.json"
    path.write_text(json.dumps({"eval_log_forget.json": log}))
    check_questions(read_log(path), own_questions(1))
    with pytest.raises(DataError, match="1 of them with other answers"):
        check_questions(read_log(path), own_questions(1, "It is Bob."))


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
