"""The base of a study is scored on the very rows that its adapters are: system prompt and length of the settings."""

import json

import pytest

from asu_lora.data.request import ForgetRequest
from asu_lora.models import adapter_stack
from asu_lora.models.loading import load_base
from asu_lora.models.stack_rows import rows_of_settings
from asu_lora.progress import Progress
from asu_lora.studies.compare.compare import compare
from asu_lora.studies.compare.grid import learning_rates, plan_runs
from asu_lora.studies.compare.questions import comparison_sets
from asu_lora.studies.continual.continual import ContinualConfig, run_methods
from asu_lora.studies.continual.step_scores import Questions, retain_questions, score_step
from asu_lora.studies.continual.steps import read_steps
from asu_lora.studies.methods import methods
from tests.support.tiny_run import FACTS, rows, tiny_settings

SETTINGS = tiny_settings(system_prompt="Answer as the town clerk would.", epochs=1, warmup=0.0, tau=2.0)


@pytest.fixture(scope="module")
def base(taught_base):
    return load_base(str(taught_base), "fp32", "cpu")


def write(path, content):
    path.write_text("\n".join(map(json.dumps, content)))
    return path


def test_of_a_history(base, tmp_path):
    forget, keep = write(tmp_path / "f.jsonl", rows(FACTS[:2])), write(tmp_path / "k.jsonl", rows(FACTS[6:8]))
    records, _, _ = run_methods([forget], base, SETTINGS, tmp_path / "out", ContinualConfig(retain=keep, questions=2))
    [(before, _)] = records.values()
    steps = read_steps([forget], keep)
    questions = Questions((retain_questions(steps, 2),), 2)

    def scored(wanted):
        return score_step(adapter_stack.load(base, rows=wanted), steps, 0, questions, Progress())[0].as_dict()

    told, plain = scored(rows_of_settings(SETTINGS)), scored(None)
    assert before.scores["efficacy"] == told["efficacy"] != plain["efficacy"]


def test_of_a_comparison(base, tmp_path):
    request = ForgetRequest.from_rows(rows(FACTS[:2]), rows(FACTS[6:8]), "tiny")
    chosen = methods(["NPO_KL"])
    runs = plan_runs(chosen, learning_rates([], chosen, 1e-3))[:1]  # Base alone
    sets, _ = comparison_sets(request)
    means = []
    for name, settings in (("told", SETTINGS), ("plain", tiny_settings())):
        [found] = compare(request, base, sets, runs, tmp_path / name, settings).results
        means.append(found.mean("forget", "probability"))
    assert means[0] < means[1] - 0.01  # the prompt was no part of what the base learned by heart
