"""What is gone on with must be what was begun: the base's template and the rows' other columns count, not weights alone."""

import json
import shutil

import pytest

from asu_lora import forget
from asu_lora.data.request import ForgetRequest
from asu_lora.errors import OtherRun, SettingError, TrainingError
from asu_lora.models.loading import load_base
from asu_lora.studies.compare.compare import compare
from asu_lora.studies.compare.grid import Run
from asu_lora.studies.compare.identity import NEWER, run_identity
from asu_lora.studies.compare.questions import comparison_sets
from asu_lora.studies.continual.history import run_history
from asu_lora.studies.continual.steps import Step
from asu_lora.studies.methods import method
from tests.support.listener import Listener
from tests.support.tiny_run import FACTS, rows, tiny_request, tiny_settings

SETTINGS = tiny_settings(epochs=1)
REQUEST = ForgetRequest.from_rows(rows(FACTS[:2]), rows(FACTS[8:]), "tiny")
RUNS = [Run(method("Base")), Run(method("GA_NONE"), 1e-3)]


def made(base, out, request=REQUEST, runs=RUNS):
    return compare(request, base, comparison_sets(request, most=1)[0], runs, out, SETTINGS)


@pytest.fixture
def edited(taught_base, tmp_path):
    """A base, and the same weights after somebody edited its chat template."""
    folder = shutil.copytree(taught_base, tmp_path / "base")
    before = load_base(str(folder), "fp32", "cpu")

    def edit():
        template = folder / "chat_template.jinja"
        template.write_text("Chat. " + template.read_text())
        return load_base(str(folder), "fp32", "cpu")

    return before, edit


def test_rows_of_two_chat_templates_stand_in_no_table(edited, tmp_path):
    base, edit = edited
    made(base, tmp_path / "out")
    with pytest.raises(SettingError, match="the config, tokenizer and chat template of the base differs"):
        made(edit(), tmp_path / "out")


def test_what_changes_no_answer_is_no_other_base(edited, tmp_path):
    base, _ = edited
    config = base.source.path / "config.json"
    before = base.source.reading()
    config.write_text(json.dumps(json.loads(config.read_text()) | {"transformers_version": "99", "dtype": "bfloat16"}))
    assert base.source.reading() == before
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rms_norm_eps": 0.1}))
    assert base.source.reading() != before


def test_columns_that_are_added_later_make_another_comparison(base, tmp_path):
    made(base, tmp_path)
    told = [row | {"spans": [row["answer"].split()[-1].strip(".")]} for row in rows(FACTS[:2])]
    with pytest.raises(SettingError, match="the other columns of the forget rows differs"):
        made(base, tmp_path, ForgetRequest.from_rows(told, rows(FACTS[8:]), "tiny"))


def test_a_folder_of_an_earlier_version_names_neither_and_goes_on(base, tmp_path):
    shared = made(base, tmp_path).shared
    earlier = {name: value for name, value in shared.items() if name not in NEWER}
    (tmp_path / "settings.json").write_text(json.dumps(earlier))
    for run in RUNS:
        file = tmp_path / "runs" / f"{run.name}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"identity": run_identity(earlier, run)}))
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "adapters").rglob("*.safetensors")}
    assert made(base, tmp_path).shared == shared == json.loads((tmp_path / "settings.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps  # nothing was trained again


def test_an_interrupted_run_goes_on_with_its_own_chat_template_alone(edited, tmp_path):
    base, edit = edited
    with pytest.raises(KeyboardInterrupt):
        forget(tiny_request(), base, tiny_settings(), store=tmp_path / "s", progress=Listener(stop_at=4))
    with pytest.raises(OtherRun):
        forget(tiny_request(), edit(), tiny_settings(), store=tmp_path / "s", resume=True)


def test_a_history_goes_on_with_its_own_chat_template_alone(edited, tmp_path):
    base, edit = edited
    steps = [Step(1, "001-first", REQUEST)]
    run_history(steps, base, SETTINGS, tmp_path / "out")
    state = tmp_path / "out" / "run.json"
    told = json.loads(state.read_text())
    told["identity"].pop("reading")  # an earlier version's
    assert len(run_history(steps, base, SETTINGS, tmp_path / "out", resume=True)) == 2
    state.write_text(json.dumps(told))
    assert len(run_history(steps, base, SETTINGS, tmp_path / "out", resume=True)) == 2
    told["identity"]["reading"] = base.source.reading()
    state.write_text(json.dumps(told))
    with pytest.raises(TrainingError, match="other settings, base or requests"):
        run_history(steps, edit(), SETTINGS, tmp_path / "out", resume=True)
