"""Request after request on a tiny base: modes, stop and resume, folding."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from asu_lora.adapters.fitted_weights import fitted_weights
from asu_lora.adapters.manifest import read_manifest
from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import SettingError, TrainingError
from asu_lora.evaluation.question_sets import WORLD, QuestionSet
from asu_lora.forgetting.forget import forget
from asu_lora.models import adapter_stack as stack
from asu_lora.studies.continual.history import HistoryConfig, run_history
from asu_lora.studies.continual.report import other_questions
from asu_lora.studies.continual.step_records import read_records
from asu_lora.studies.continual.step_scores import Questions, efficacies, retain_questions
from asu_lora.studies.continual.steps import read_steps
from asu_lora.studies.continual.take_back import take_back
from tests.support.fixed_logits import logits
from tests.support.history import plain
from tests.support.listener import Listener
from tests.support.tiny_run import tiny_settings


def weights(folder, name):
    return (folder / "adapters" / name / "adapter_model.safetensors").read_bytes()


# ---- the run


def test_each_step_stands_on_those_before_it(base, steps, stacked):
    records, store = read_records(stacked), AdapterStore(stacked / "adapters")
    assert store.names() == [step.name for step in steps]
    for number, step in enumerate(steps):
        manifest = read_manifest(store.root / step.name)
        assert [below.name for below in manifest.on_top_of] == [earlier.name for earlier in steps[:number]]
        assert manifest.method.details.get("teacher") == ("stack" if number else None)
    assert [record.active_rank for record in records] == [0, 4, 8, 12]
    assert records[-1].active == [(step.name, 1.0) for step in steps] and records[1].adapter_bytes > 0
    assert stack.missing_ground(stack.adapter_folders(records[-1].active, store)) == []
    assert plain(base)


@pytest.mark.parametrize("mode", ["stack", "orthogonal", "running"])
def test_resumed_in_the_second_step_is_bit_identical(base, files, steps, tmp_path, mode):
    settings, history = tiny_settings(dropout=0.2), HistoryConfig(mode, 2 if mode == "stack" else 0)
    steps = steps if mode == "stack" else steps[:2]
    run_history(steps, base, settings, tmp_path / "whole", history)
    with pytest.raises(KeyboardInterrupt):  # 3 epochs of 1 step each: in the second epoch of the second step
        run_history(steps, base, settings, tmp_path / "broken", history, progress=Listener(stop_at=5))
    store = AdapterStore(tmp_path / "broken" / "adapters")
    assert store.names() == ["001-history-1"] and plain(base)
    assert (store.root / ".runs" / "002-history-2" / "checkpoint-1").is_dir()
    with pytest.raises(TrainingError, match="--resume"):
        run_history(steps, base, settings, tmp_path / "broken", history)
    for other in (tiny_settings(dropout=0.2, lr=1e-3), settings):
        changed = steps if other is not settings else read_steps([files[0]], files[1], most=1)
        with pytest.raises(TrainingError, match="other settings, base or requests"):
            run_history(changed, base, other, tmp_path / "broken", history, resume=True)
    torch.rand(7)
    records = run_history(steps, base, settings, tmp_path / "broken", history, resume=True)
    assert [record.number for record in records] == list(range(len(steps) + 1))
    names = AdapterStore(tmp_path / "whole" / "adapters").names()
    assert names == store.names() and ("folded-002" in names) == (mode == "stack")
    assert all(weights(tmp_path / "whole", name) == weights(tmp_path / "broken", name) for name in names)
    assert run_history(steps, base, settings, tmp_path / "broken", history, resume=True) == records


def test_orthogonal_steps_are_folded_and_taken_back(base, steps, tmp_path):
    history = HistoryConfig("orthogonal", consolidate_every=2)
    with pytest.raises(SettingError, match="mode of a history"):
        run_history(steps[:2], base, tiny_settings(orthogonal=True), tmp_path, history)
    run_history(steps[:2], base, tiny_settings(lr=5e-3), tmp_path, history)
    store = AdapterStore(tmp_path / "adapters")
    first, second = (load_file(store.root / step.name / "adapter_model.safetensors") for step in steps[:2])
    reads = [name for name in first if "lora_A" in name]
    assert (
        max((first[name] @ second[name].T).abs().max() for name in reads)
        < 1e-5
        < min(second[name].abs().max() for name in reads)
    )
    assert read_manifest(store.root / steps[1].name).method.details["orthogonal"] is True
    assert "folded-002" in store.names()


def test_requests_may_follow(base, steps, tmp_path):
    """MU of the later ones stands on fewer retain questions, which is said."""

    def run(folder, number, **others):
        scored = Questions((retain_questions(steps[:number], 40),), 1)
        return run_history(steps[:number], base, settings, tmp_path / folder, questions=scored, **others)

    settings = tiny_settings(epochs=1, warmup=0.0)
    assert other_questions("ASU_KL", run("grown", 1)) == []
    [said, _] = other_questions("ASU_KL", run("grown", 2, resume=True))
    assert said == "ASU_KL: MU and Avg from step 2 on are of other retain questions than those before it."
    assert other_questions("ASU_KL", run("whole", 2)) == []
    assert weights(tmp_path / "grown", "002-history-2") == weights(tmp_path / "whole", "002-history-2")


def test_a_run_goes_on_with_the_questions_that_it_is_measured_on(base, steps, tmp_path):
    """With others a table's later steps would have another MU than its first for that alone."""

    def run(steps, world, **others):
        kept = retain_questions(steps, 40)
        return run_history(steps[:1], base, settings, tmp_path / "run", questions=Questions((kept, world), 2), **others)

    settings, world = tiny_settings(epochs=1, warmup=0.0), QuestionSet(WORLD, steps[0].request.retain[:2])
    done = run(steps[:1], world)
    wrong = [replace(row, extra=row.extra | {"perturbed_answer": ["No."]}) for row in steps[0].request.retain]
    others = QuestionSet(WORLD, steps[0].request.retain[1:3])
    scored_otherwise = [replace(steps[0], request=replace(steps[0].request, retain=tuple(wrong)))]
    for changed in ((steps[:1], others), (scored_otherwise, world)):
        with pytest.raises(TrainingError, match="measured on other questions.*--data, or choose another --out"):
            run(*changed, resume=True)
    assert run(steps[:1], world, resume=True) == done
    state = tmp_path / "run" / "run.json"  # an earlier version didn't say what was asked
    told = json.loads(state.read_text())
    del told["identity"]["asked"]
    state.write_text(json.dumps(told))
    assert run(steps[:1], others, resume=True) == done


def test_independent_adapters_know_nothing_of_each_other(base, steps, tmp_path):
    settings = tiny_settings(epochs=1, warmup=0.0)
    records = run_history(steps[:2], base, settings, tmp_path / "run", HistoryConfig("independent"))
    forget(steps[1].request, base, settings, name="alone", store=tmp_path / "other")
    alone = (tmp_path / "other" / "alone" / "adapter_model.safetensors").read_bytes()
    assert weights(tmp_path / "run", "002-history-2") == alone
    assert len(records[-1].active) == 2


def test_a_fitted_sum_gets_the_weights_that_combine_gives(base, steps, tmp_path):
    settings = tiny_settings(epochs=10, lr=5e-3, forget_dose=2.25, settle_at=0.6)
    folder = tmp_path / "run"
    records = run_history(steps, base, settings, folder, HistoryConfig("fitted"))
    store = AdapterStore(folder / "adapters")
    names = [step.name for step in steps]
    assert not any(read_manifest(store.root / name).on_top_of for name in names)
    for record in records[1:]:
        active = names[: record.number]
        assert record.active == list(zip(active, fitted_weights([store.root / one for one in active]), strict=True))
    assert records[1].active == [(names[0], 1.0)] and all(weight < 1 for _, weight in records[-1].active)
    scored = Questions((retain_questions(steps, 2),), 2)
    found = take_back(steps, base, folder, 2, scored)
    left = [names[0], names[2]]
    pair = stack.load(base, zip(left, fitted_weights([store.root / one for one in left]), strict=True), store)
    utility, efficacy = efficacies(pair, steps, scored, Listener())
    pair.unload()
    assert found.utility[1] == pytest.approx(utility) and found.efficacy[2][1] == pytest.approx(efficacy[2])
    with pytest.raises(SettingError, match="--adds-up"):
        run_history(steps, base, tiny_settings(), tmp_path / "never", HistoryConfig("fitted"))
    with pytest.raises(SettingError, match="consolidate_every out"):
        HistoryConfig("fitted", consolidate_every=2)


def test_a_running_adapter_stays_one(base, steps, tmp_path):
    settings = tiny_settings(epochs=1, warmup=0.0, lr=1e-2)
    records = run_history(steps, base, settings, tmp_path / "run", HistoryConfig("running"))
    assert [record.active for record in records[1:]] == [[(step.name, 1.0)] for step in steps]
    assert [record.active_rank for record in records] == [0, 4, 4, 4]
    first, second = (weights(tmp_path / "run", step.name) for step in steps[:2])
    assert first != second and len(first) == len(second)


def test_folding_is_exact_and_later_steps_stand_on_it(base, steps, tmp_path):
    settings = tiny_settings(epochs=1, warmup=0.0, lr=1e-2)
    folded = run_history(steps, base, settings, tmp_path / "folded", HistoryConfig(consolidate_every=2))
    store = AdapterStore(tmp_path / "folded" / "adapters")
    assert folded[2].active == [("folded-002", 1.0)] and folded[2].fold == 0.0
    assert [name for name, _ in folded[3].active] == ["folded-002", "003-history-3"]
    assert [below.name for below in read_manifest(store.root / "003-history-3").on_top_of] == ["folded-002"]
    found = []
    for names in ([], ["folded-002"], ["001-history-1", "002-history-2"]):
        loaded = stack.load(base, names, store)
        assert loaded.notes == []
        found.append(logits(loaded.model))
        loaded.unload()
    untouched, one, parts = found
    assert (one - parts).abs().max() < 1e-4 < 0.1 < (one - untouched).abs().max()


def test_the_cost_of_serving_stays_flat(base, steps, tmp_path):
    """Exactly folded, ranks end at what the matrices have (32, the tiny base's k and v); cut, at the rank."""
    settings = tiny_settings(epochs=1, warmup=0.0, lr=1e-2, rank=16, target_modules="k_proj,v_proj")
    exact = run_history(steps, base, settings, tmp_path / "exact", HistoryConfig("independent", 1))
    cut = run_history(steps[:2], base, settings, tmp_path / "cut", HistoryConfig("independent", 1, 16))
    assert [record.active_rank for record in exact[1:]] == [16, 32, 32]
    assert [record.active_rank for record in cut[1:]] == [16] * 2
    assert all(len(record.active) == 1 for record in (*exact[1:], *cut[1:]))
    assert exact[-1].fold == 0.0 and 0 < cut[-1].fold < 1
    assert exact[2].active_bytes == pytest.approx(exact[3].active_bytes, rel=0.02)
