"""Two requests of a history that ask one question: each is scored against its own answer."""

import json

import pytest

from asu_lora.models import adapter_stack
from asu_lora.progress import Progress
from asu_lora.studies.continual.step_scores import Questions, efficacies, retain_questions, score_step
from asu_lora.studies.continual.steps import read_steps
from tests.support.tiny_run import FACTS, rows

TRUE, OTHER = rows(FACTS[:1])[0], {"question": "What does Anna Birk do?", "answer": "She owns a zeppelin, they say."}


@pytest.fixture
def steps(tmp_path):
    """The base knows the first request's answer by heart, and not the second's, to the same question."""
    files = []
    for name, row in (("1", TRUE), ("2", OTHER | {"perturbed_answer": ["She swims."]}), ("3", TRUE)):
        files.append(tmp_path / f"{name}.jsonl")
        files[-1].write_text(json.dumps(row))
    keep = tmp_path / "keep.jsonl"
    keep.write_text("\n".join(map(json.dumps, rows(FACTS[4:8]))))
    return read_steps(files, keep)


def test_each_request_is_scored_against_its_own_answer(base, steps):
    questions = Questions((retain_questions(steps, 2),), 2)
    scores, found = score_step(adapter_stack.load(base), steps, 2, questions, Progress())
    records = [record for record in found.records if record["set"] == "forget"]
    assert [record["truth"] for record in records] == [TRUE["answer"], OTHER["answer"]]
    assert records[0]["rouge"] == 1.0 and records[1]["rouge"] < 0.5
    assert records[0]["truth_ratio"] is None and records[1]["truth_ratio"] is not None  # each by its own fields
    assert scores.efficacy_first < scores.efficacy - 20  # the first is known by heart, the second never was


def test_the_order_of_requests_changes_no_score(base, steps):
    questions = Questions((retain_questions(steps, 2),), 2)
    _, found = efficacies(adapter_stack.load(base), steps, questions, Progress())
    assert found[1] == found[3] != found[2]
