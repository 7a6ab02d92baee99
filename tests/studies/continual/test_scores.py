"""Scores after a step, and a step that is taken back."""

import json
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import SettingError, TrainingError
from asu_lora.evaluation.evaluate import means
from asu_lora.evaluation.metrics.forget_efficacy import forget_efficacy
from asu_lora.models import adapter_stack as stack
from asu_lora.studies.continual.consolidate import consolidate
from asu_lora.studies.continual.history import run_history
from asu_lora.studies.continual.step_scores import Questions, efficacies, retain_questions, score_step
from asu_lora.studies.continual.take_back import take_back
from tests.support.history import plain
from tests.support.listener import Listener
from tests.support.tiny_run import FACTS, rows, tiny_settings


def test_scores_of_parts_come_from_one_set_of_records(base, steps):
    kept = retain_questions(steps, 4)
    asked = {example.question for step in steps for example in step.request.forget}
    assert len(kept.examples) == 4 and not asked & {example.question for example in kept.examples}
    scores, found = score_step(stack.load(base), steps, 2, Questions((kept,), 2), Listener())
    records = [record for record in found.records if record["set"] == "forget"]
    assert [record["question"] for record in records] == [row["question"] for row in rows(FACTS[:4])]
    for part, got in (
        (records, scores.efficacy_so_far),
        (records[:2], scores.efficacy_first),
        (records[2:], scores.efficacy),
    ):
        assert got == pytest.approx(100 * forget_efficacy(means(part, "forget")).value, abs=0.01)
    assert scores.average == pytest.approx((scores.utility + scores.efficacy) / 2, abs=0.02)


def test_scores_of_another_encoder_stand_in_no_table_with_these(base, steps, stacked, tmp_path):
    """Cosine similarities of two encoders are not of one measure; a run that didn't name its own goes on."""
    folder = shutil.copytree(stacked, tmp_path / "run")
    state = json.loads((folder / "run.json").read_text())
    kept = retain_questions(steps, 2)
    settings = tiny_settings(lr=5e-3, teacher="stack")
    for told, fits in (("one", True), (True, True), ("another", False)):
        state["identity"]["questions"] = [2, ["retain"], told, False if told is True else None]
        (folder / "run.json").write_text(json.dumps(state))
        questions = Questions((kept,), 2, SimpleNamespace(name="one"))
        with nullcontext() if fits else pytest.raises(TrainingError, match="other settings"):
            assert len(run_history(steps, base, settings, folder, questions=questions, resume=True)) == 4


@pytest.mark.parametrize("folded", [False, True])
def test_taking_one_back_leaves_the_others(base, steps, stacked, tmp_path, folded):
    """The step's own questions are known again; the stack without it is the sum of the others, folded or not."""
    folder, store = stacked, AdapterStore(stacked / "adapters")
    if folded:
        folder = shutil.copytree(stacked, tmp_path / "folded")
        state = json.loads((folder / "run.json").read_text())
        name, _ = consolidate([(step.name, 1.0) for step in steps], AdapterStore(folder / "adapters"), "folded-003")
        state["steps"][-1]["active"] = [[name, 1.0]]
        (folder / "run.json").write_text(json.dumps(state))
    kept = retain_questions(steps, 2)
    found = take_back(steps, base, folder, 2, Questions((kept,), 2), Listener())
    assert sorted(found.efficacy) == [1, 2, 3]
    assert found.efficacy[2][1] < found.efficacy[2][0]
    loaded = stack.load(base, ["001-history-1", "003-history-3"], store)
    expected = efficacies(loaded, steps, Questions((kept,), 2), Listener())
    loaded.unload()
    assert found.utility[1] == pytest.approx(expected[0], abs=0.1)
    assert [after for _, after in found.efficacy.values()] == pytest.approx(list(expected[1].values()), abs=0.1)
    assert plain(base)
    with pytest.raises(SettingError, match="no step 4"):
        take_back(steps, base, folder, 4, Questions((kept,), 2))
