"""The log of a model trained without the rows: forget quality against it, its AUC as a floor, and what is refused."""

import json
from dataclasses import replace

import pytest

from asu_lora.audit.certificate.limits import _quality
from asu_lora.audit.certificate.wording import KINDS, beside
from asu_lora.audit.gate import gate
from asu_lora.audit.request import AuditRequest
from asu_lora.audit.run import audit
from asu_lora.audit.settings import AuditSettings
from asu_lora.errors import DataError
from asu_lora.evaluation.evaluation_request import EvaluationRequest
from tests.support.listener import Listener
from tests.support.planted import FORGET, STRANGERS
from tests.support.tiny_run import FACTS, rows

SETTINGS = AuditSettings(("direct", "retrained"), "quick")


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Rows with two wrong answers each: those of other people."""
    folder = tmp_path_factory.mktemp("files")
    for name, facts in (("forget", FORGET), ("floor", STRANGERS)):
        wrong = [[f"{who} {other}." for _, other in FACTS[-2:]] for who, _ in facts]
        told = [row | {"perturbed_answer": each} for row, each in zip(rows(facts), wrong, strict=True)]
        write(folder / f"{name}.jsonl", told)
    return folder


@pytest.fixture(scope="module")
def logs(files, tiny_base, taught_base):
    """The records of a base that was taught nothing, and of the taught one."""
    found = {}
    for name, base in (("never", tiny_base), ("taught", taught_base)):
        request = EvaluationRequest(
            base=str(base),
            precision="fp32",
            device="cpu",
            forget=str(files / "forget.jsonl"),
            holdout=str(files / "floor.jsonl"),
        )
        found[name] = files / f"{name}.records.jsonl"
        request.load().score().write_records(found[name])
    return found


@pytest.fixture
def asked(files, taught_base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return AuditRequest(
        files / "forget.jsonl", str(taught_base), floor=files / "floor.jsonl", precision="fp32", device="cpu"
    )


def found(request, **changes):
    [_, attack] = audit(replace(request, **changes), SETTINGS).attacks
    return attack


def test_a_model_that_knows_is_told_from_one_that_never_did_and_not_from_itself(asked, logs, tiny_base):
    knows = found(asked, retain_log=logs["never"])
    quality, apart = knows.readings
    assert (quality.figure, quality.candidate, quality.floor) == ("forget_quality", quality.ceiling, None)
    assert quality.candidate.value < 0.05 and quality.candidate.rows == 6 and quality.recovered is None
    assert (
        apart.figure == "auc_min_k" and apart.candidate.value > 0.9 > apart.floor.value and apart.candidate.rows == 12
    )
    assert not knows.of_knowledge and knows.kind in KINDS and "no proof" in knows.notes[0]
    assert "it is told from a model trained without the rows: forget quality 0.00" in beside([knows])[0]
    same = found(asked, retain_log=logs["taught"])
    assert same.readings[0].candidate.value == 1.0 and same.readings[1].floor == same.readings[1].candidate
    assert "it is not told from" in beside([same])[0]


def test_the_log_s_order_is_no_matter_where_it_has_texts(asked, logs, files):
    lines = [json.loads(line) for line in logs["taught"].read_text().splitlines()]
    turned = write(files / "turned.jsonl", lines[::-1])
    assert found(asked, retain_log=turned).readings == found(asked, retain_log=logs["taught"]).readings


def test_a_log_of_another_program_is_held_against_rows_by_their_number(asked, logs, files):
    ratios = [
        row["truth_ratio"] for row in map(json.loads, logs["taught"].read_text().splitlines()) if row["set"] == "forget"
    ]
    log = {"forget_truth_ratio": {"value_by_index": {str(at): {"score": 1 / each} for at, each in enumerate(ratios)}}}
    (files / "TOFU_EVAL.json").write_text(json.dumps(log))
    other = found(asked, retain_log=files / "TOFU_EVAL.json")
    assert [one.figure for one in other.readings] == ["forget_quality"]
    assert other.readings[0].candidate.value == 1.0 and any("no Min-K %" in note for note in other.notes)


def test_it_counts_for_no_limit_on_knowledge_and_is_resumed_with_the_same_log_alone(asked, logs):
    request = replace(asked, retain_log=logs["never"])
    with pytest.raises(KeyboardInterrupt):
        audit(request, SETTINGS, Listener(stop_stage="retrained"))
    heard = Listener()
    audit(replace(request, retain_log=logs["taught"]), SETTINGS, heard)
    assert any(stage.startswith("direct") for stage in heard.stages)
    heard = Listener()
    result = audit(request, SETTINGS, heard)
    assert "compared with by the attack 'retrained'" in _quality(result) and "retrained" not in _quality(
        result.model_copy(update={"attacks": result.attacks[:1]})
    )
    assert not any(stage.startswith("direct") for stage in heard.stages)
    assert "1 of 1" in gate(result, 2.0).says


def test_without_a_log_or_without_truth_ratios_it_says_what_is_wanting(asked, logs, files):
    [left_out] = [each for each in audit(asked, SETTINGS).untried if each.attack == "retrained"]
    assert "--retain-log" in left_out.reason
    lines = [{**json.loads(line), "truth_ratio": None} for line in logs["never"].read_text().splitlines()]
    bare = audit(replace(asked, retain_log=write(files / "bare.jsonl", lines)), SETTINGS)
    [left_out] = [each for each in bare.untried if each.attack == "retrained"]
    assert "perturbed_answer" in left_out.reason


def test_a_log_of_other_questions_is_refused_before_anything_is_loaded(asked, logs, files):
    fewer = write(files / "fewer.jsonl", map(json.loads, logs["never"].read_text().splitlines()[1:]))
    for log, said in ((fewer, "log is of other questions"), (files / "forget.jsonl", "no retain-only model's log")):
        with pytest.raises(DataError, match=said):
            replace(asked, base="no/such-base", retain_log=log).read()
