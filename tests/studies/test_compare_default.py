"""The row of what ``forget`` does by default: its own settings, whatever the other rows are made with."""

import pytest
from safetensors.torch import load_file

from asu_lora.adapters.store import AdapterStore
from asu_lora.adding_up import ADDS_UP
from asu_lora.data.request import ForgetRequest
from asu_lora.errors import SettingError
from asu_lora.forgetting.forget import forget
from asu_lora.studies.compare.compare import compare
from asu_lora.studies.compare.grid import Run, learning_rates, plan_runs, weighted
from asu_lora.studies.compare.questions import comparison_sets
from asu_lora.studies.compare.report import as_markdown
from asu_lora.studies.compare.reproduce import reproduce
from asu_lora.studies.methods import DEFAULT, method, method_configs, methods
from tests.support.listener import Listener
from tests.support.tiny_run import FACTS, rows, tiny_settings

SETTINGS = tiny_settings(own_words=0.0, epochs=1, batch_size=3)
REQUEST = ForgetRequest.from_rows(rows(FACTS[:3]), rows(FACTS[6:]), "tiny")
SETS = comparison_sets(REQUEST, most=3)[0]


def test_its_rate_and_settings_are_its_own():
    chosen = methods([DEFAULT, "GA_GD"])
    assert learning_rates(["1e-3"], chosen, 0.5) == {DEFAULT: [ADDS_UP["lr"]], "GA_GD": [1e-3]}
    assert learning_rates([f"{DEFAULT}=2e-3"], chosen, 0.5)[DEFAULT] == [2e-3]
    [run] = weighted([Run(method("asu_default"), ADDS_UP["lr"])], SETTINGS)
    config = run.config(SETTINGS)
    assert {name: getattr(config, name) for name in ADDS_UP} == dict(ADDS_UP)
    assert (config.objective, config.precision, config.rank) == ("asu", SETTINGS.precision, SETTINGS.rank)
    assert run.title == "ASU_DEFAULT, lr 0.008"
    assert method_configs(DEFAULT, SETTINGS)[DEFAULT] == config.__class__(**{**vars(config), "eval_rows": 0})
    with pytest.raises(SettingError, match="ASU_DEFAULT"):
        method("NOTHING_GD")


def test_its_adapter_is_that_of_forget_and_is_made_again_from_its_record(base, tmp_path):
    runs = plan_runs(methods([DEFAULT]), {DEFAULT: [ADDS_UP["lr"]]})
    found = compare(REQUEST, base, SETS, runs, tmp_path / "out", SETTINGS)
    [row] = [result for result in found.results if result.method == DEFAULT]
    assert row.done and row.changes["keep_off"] == ADDS_UP["keep_off"], row.failure

    store = AdapterStore(tmp_path / "alone")
    config = SETTINGS.__class__(**{**vars(SETTINGS), **ADDS_UP})
    alone = forget(REQUEST, base, config, name="alone", store=store).path
    weights = load_file(alone / "adapter_model.safetensors")
    beside = load_file(tmp_path / "out" / "adapters" / row.adapter / "adapter_model.safetensors")
    assert weights.keys() == beside.keys() and all((weights[name] == beside[name]).all() for name in weights)

    told = as_markdown(found)
    assert f"{DEFAULT}: what `asu-lora forget` does" in told and "retain_dose 4" in told
    assert reproduce(found, row.adapter, Listener()).same
