"""The row of a model that never saw the request: scored, known by its weights, and no part of what is best."""

import shutil

import pytest

from asu_lora.bases.source import resolve_base
from asu_lora.data.request import ForgetRequest
from asu_lora.errors import SettingError
from asu_lora.evaluation.evaluate import evaluate
from asu_lora.models.adapter_stack import load
from asu_lora.models.loading import load_base
from asu_lora.models.stack_rows import rows_of_settings
from asu_lora.studies.compare.compare import compare
from asu_lora.studies.compare.grid import plan_runs
from asu_lora.studies.compare.questions import comparison_sets
from asu_lora.studies.compare.ranking import by_average
from asu_lora.studies.compare.report import as_json, write_report
from asu_lora.studies.compare.reproduce import reproduce
from asu_lora.studies.compare.runner import checked_summary
from asu_lora.studies.methods import methods
from tests.support.listener import Listener
from tests.support.tiny_run import FACTS, rows, tiny_settings

REQUEST = ForgetRequest.from_rows(rows(FACTS[:3]), rows(FACTS[6:]), "tiny")
SETS = comparison_sets(REQUEST, most=3)[0]
SETTINGS = tiny_settings(own_words=0.0, epochs=1, batch_size=3)
RUNS = plan_runs(methods(["GA_GD"]), {"GA_GD": [1e-3]})


@pytest.fixture(scope="module")
def made(base, tiny_base, tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / "out"
    return compare(REQUEST, base, SETS, RUNS, out, SETTINGS, reference_base=str(tiny_base))


def row_of(made, name="Reference"):
    [row] = [row for row in made.results if row.method == name]
    return row


def test_its_row_is_the_models_own_scores_beside_the_base(made, tiny_base):
    assert [row.method for row in made.results] == ["Base", "Reference", "GA_GD"]
    found = row_of(made)
    assert found.changes == {"base": resolve_base(str(tiny_base)).fingerprint()[:16]} and found.adapter is None
    stack = load(load_base(str(tiny_base), "fp32", "cpu"), [], rows=rows_of_settings(SETTINGS))
    assert found.scores == checked_summary(evaluate(stack, SETS))
    assert row_of(made, "Base").scores["sets"]["forget"]["probability"] > found.scores["sets"]["forget"]["probability"]


def test_it_is_neither_best_nor_on_the_front(made):
    assert [row.method for row in by_average(made.best)] == ["GA_GD"]
    assert not any("Reference" in title for title in as_json(made)["pareto front"])
    told = (made.out / "comparison.md") if write_report(made) else None
    line = next(line for line in told.read_text().splitlines() if line.startswith("| Reference"))
    assert "**" not in line and "<u>" not in line


def test_one_with_another_chat_template_is_said(base, tiny_base, tmp_path):
    other = shutil.copytree(tiny_base, tmp_path / "other")
    template = other / "chat_template.jinja"
    template.write_text("{{ 'Answer briefly. ' }}" + template.read_text())
    made = compare(
        REQUEST, base, SETS, plan_runs(methods(["Base"]), {}), tmp_path / "out", SETTINGS, reference_base=str(other)
    )
    said = "The reference other has another chat template than the base"
    assert any(note.startswith(said) for note in row_of(made).scores["notes"])
    assert said in next(path for path in write_report(made) if path.name == "comparison.md").read_text()
    assert not any("template" in note for note in row_of(made, "Base").scores["notes"])


def test_it_is_made_again_from_its_record_and_needs_to_be_named(made, base, tiny_base, tmp_path):
    assert reproduce(made, "Reference", Listener()).same
    with pytest.raises(SettingError, match="--reference-base"):
        compare(REQUEST, base, SETS, plan_runs(methods(["Reference"]), {}), tmp_path / "out", SETTINGS)


def test_another_reference_is_another_row_and_without_one_its_row_stays(made, base, taught_base):
    heard = Listener()
    without = compare(REQUEST, base, SETS, RUNS, made.out, SETTINGS, progress=heard)
    assert row_of(without).scores == row_of(made).scores and not any("Run 1" in note for note in heard.notes)
    other = compare(REQUEST, base, SETS, RUNS, made.out, SETTINGS, reference_base=str(taught_base))
    assert row_of(other).changes != row_of(made).changes
    assert row_of(other).scores["sets"] == row_of(other, "Base").scores["sets"]
