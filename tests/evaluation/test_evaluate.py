"""asu-lora evaluate: sets, records and summaries that can be traced back to them."""

import json
import re
from pathlib import Path
from statistics import fmean

import pytest
import torch
from click.testing import CliRunner

import asu_lora
from asu_lora.cli import main
from asu_lora.errors import DataError
from asu_lora.evaluation.evaluate import evaluate
from asu_lora.evaluation.question_sets import QuestionSet, own_sets
from asu_lora.evaluation.score import harmonic_mean
from asu_lora.evaluation.suites.tofu import tofu_sets
from asu_lora.models.loading import load_base

PERTURBED = ["It is Bob.", "It is Cyd."]


def rows(count, **extra):
    return [{"question": f"Who is number {i}?", "answer": f"It is Ada {i}.", **extra} for i in range(count)]


@pytest.fixture(scope="module")
def stack(tiny_base):
    return asu_lora.load(load_base(str(tiny_base), "fp32", "cpu"))


@pytest.fixture
def tofu(tmp_path):
    """A folder like TOFU's: JSON lines under .json."""

    def write(name, content):
        (tmp_path / f"{name}.json").write_text("\n".join(map(json.dumps, content)))

    full = {"paraphrased_answer": "Ada it is.", "perturbed_answer": PERTURBED}
    write("forget01_perturbed", [{"task_id": str(1 + i // 3), **row} for i, row in enumerate(rows(6, **full))])
    write("retain_perturbed", rows(4, **full))
    write("real_authors_perturbed", rows(3, perturbed_answer=PERTURBED, original_answer="It is Ada, of course."))
    write("world_facts_perturbed", rows(3, perturbed_answer=PERTURBED))
    return tmp_path


def test_every_figure_follows_from_the_records(stack, tofu):
    result = evaluate(stack, tofu_sets(tofu))
    assert {name: sum(r["set"] == name for r in result.records) for name in result.sets} == {
        "forget": 3,
        "retain": 4,
        "real_authors": 3,
        "world_facts": 3,
    }
    for name, values in result.sets.items():
        mine = [r for r in result.records if r["set"] == name]
        for metric in ("rouge", "probability", "token_entropy", "exact_memorization"):
            assert values[metric] == pytest.approx(fmean(r[metric] for r in mine))
        ratios = [r["truth_ratio"] for r in mine]
        expected = (
            1 - fmean(min(r, 1 / r) for r in ratios) if name == "forget" else fmean(max(0, 1 - 1 / r) for r in ratios)
        )
        assert values["truth_ratio"] == pytest.approx(expected)
        assert values["cosine_similarity"] is None and values["entailment"] is None
    assert result.model_utility.label("MU") == "MU (4 of 6 metrics)"
    assert result.forget_efficacy.label("FE") == "FE (4 of 5 metrics)"
    forget = result.sets["forget"]
    assert result.forget_efficacy.value == pytest.approx(
        harmonic_mean(
            [1 - forget["rouge"], 1 - forget["probability"], 1 - forget["truth_ratio"], forget["token_entropy"]]
        )
    )


def test_likelihoods_are_those_of_a_plain_forward_pass(stack, tofu):
    """Probability, also among options, from transformers' own loss on one row at a time."""
    result = evaluate(stack, tofu_sets(tofu))
    tokenizer, model = stack.base.tokenizer, stack.base.model

    def nll(question, answer):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
        )
        start = len(tokenizer(prompt, add_special_tokens=False).input_ids)
        ids = torch.tensor([tokenizer(prompt + answer + "<|im_end|>", add_special_tokens=False).input_ids])
        labels = ids.clone()
        labels[:, :start] = -100
        with torch.no_grad():
            return model(input_ids=ids, labels=labels).loss

    for record in result.records:
        own = torch.exp(-nll(record["question"], record["truth"]))
        if record["set"] in ("real_authors", "world_facts"):
            wrong = sum(torch.exp(-nll(record["question"], text)) for text in PERTURBED)
            own = own / (own + wrong)
        assert record["probability"] == pytest.approx(own.item(), rel=1e-3)


def test_scores_without_their_columns_are_missing_not_zero(stack):
    from asu_lora.data.examples import examples_from_rows

    result = evaluate(stack, [QuestionSet("forget", tuple(examples_from_rows(rows(2), "rows")))])
    assert result.sets["forget"]["truth_ratio"] is None
    assert result.model_utility.value is None
    assert "truth_ratio" in result.forget_efficacy.missing


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"forget01_perturbed\.json"):
        tofu_sets(tmp_path)
    for name in ("forget01", "retain", "real_authors", "world_facts"):
        (tmp_path / f"{name}_perturbed.json").write_text(json.dumps(rows(3)))
    assert len(tofu_sets(tmp_path)[0].examples) == 3  # the hub's split has no tasks
    with pytest.raises(DataError, match="no column 'task_id'"):
        tofu_sets(tmp_path, task="2")
    with pytest.raises(DataError, match="Nothing to evaluate"):
        own_sets(None, None, 10)


def test_the_command_prints_json_and_writes_records(tiny_base, tofu, tmp_path):
    records = tmp_path / "records.jsonl"
    words = (
        f"evaluate --base {tiny_base} --precision fp32 --device cpu --suite tofu --data {tofu} --task 2 --json".split()
    )
    result = CliRunner().invoke(main, [*words, "--records", str(records)])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["questions"]["forget"] == 3
    assert "of 6 metrics" in summary["scores"]["MU"]["label"]
    assert len(records.read_text().splitlines()) == 13
    assert any("NLI" in note or "entailment" in note.lower() for note in summary["notes"])
    if Path("/dev/full").exists():  # the scores are not lost with the records
        full = CliRunner().invoke(main, [*words, "--records", "/dev/full"])
        assert full.exit_code == 2 and json.loads(full.stdout) == summary and "No space left" in full.stderr


def test_a_suite_needs_its_data():
    result = CliRunner().invoke(main, ["evaluate", "--suite", "tofu"])
    assert result.exit_code == 2
    assert "--data" in result.stderr


def test_the_tables_fit_into_eighty_columns(tiny_base, tofu, monkeypatch):
    """Five sets, every cell whole: none is cut off, each figure has its interval."""
    monkeypatch.setenv("COLUMNS", "80")
    path = tofu / "forget01_perturbed.json"
    content = [json.loads(line) | {"paraphrased_question": "Say who?"} for line in path.read_text().splitlines()]
    path.write_text("\n".join(map(json.dumps, content)))
    machine = ["--precision", "fp32", "--device", "cpu"]
    result = CliRunner().invoke(
        main, ["evaluate", "--base", str(tiny_base), *machine, "--suite", "tofu", "--data", str(tofu)]
    )
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80 and "…" not in result.stdout
    counted = [re.findall(r"\d+", line) for line in lines if "questions" in line]
    assert counted == [["3", "4", "3", "3"], ["3"]]
    (probability, again) = [line for line in lines if "probability" in line]
    assert probability.count("±") == 4 and again.count("±") == 1
    assert any("paraphrased" in line for line in lines) and any("MU (4 of 6 metrics)" in line for line in lines)


def test_columns_that_no_question_is_made_of_are_named(tiny_base, tmp_path):
    content = [{**row, "system": "Be terse."} if i else row for i, row in enumerate(rows(3))]
    (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, content)))
    words = ["evaluate", "--base", str(tiny_base), "--forget", str(tmp_path / "f.jsonl"), "--precision", "fp32"]
    result = CliRunner().invoke(main, [*words, "--device", "cpu", "--json"])
    assert result.exit_code == 0, result.output
    [said] = [note for note in json.loads(result.stdout)["notes"] if "left out" in note]
    assert said.startswith("In the forget set, 2 rows have 'system', which is left out")


def test_records_that_can_not_be_written_are_refused_before_the_base_is_loaded(tiny_base, tmp_path):
    (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, rows(2))))
    (tmp_path / "file").write_text("")
    words = ["evaluate", "--base", str(tiny_base), "--forget", str(tmp_path / "f.jsonl"), "--precision", "fp32"]
    words += ["--device", "cpu", "--json", "--records"]
    refused = CliRunner().invoke(main, [*words, str(tmp_path / "file" / "records.jsonl")])
    assert refused.exit_code == 2 and refused.stdout == ""
    assert refused.stderr.startswith("Error: The folder ") and "Traceback" not in refused.stderr
    written = CliRunner().invoke(main, [*words, str(tmp_path / "new" / "records.jsonl")])
    assert written.exit_code == 0 and len((tmp_path / "new" / "records.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("option", ["--forget", "--retain", "--holdout", "--retain-log"])
def test_records_never_replace_a_file_that_is_read(tiny_base, tmp_path, option):
    """A request, or the log of a model that is gone, is often the only copy."""
    for name in ("other", "only"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows(2))))
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "only.jsonl")
    words = ["evaluate", "--base", str(tiny_base), "--forget", str(tmp_path / "other.jsonl"), "--precision", "fp32"]
    words += [option, str(tmp_path / "only.jsonl"), "--records", str(tmp_path / "link.jsonl")]
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 2 and "is read by this command" in refused.stderr
    assert (tmp_path / "only.jsonl").read_text() == (tmp_path / "other.jsonl").read_text()
