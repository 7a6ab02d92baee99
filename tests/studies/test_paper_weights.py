"""asu-lora compare: methods of other papers run with their papers' weights, and are told apart from those without."""

import json

import pytest
from click.testing import CliRunner

from asu_lora.adapters.manifest import read_manifest
from asu_lora.cli import main
from asu_lora.config import ForgetConfig
from asu_lora.data.request import ForgetRequest
from asu_lora.studies.compare.compare import Comparison, compare
from asu_lora.studies.compare.grid import Run, plan_runs, weighted
from asu_lora.studies.compare.identity import run_identity
from asu_lora.studies.compare.questions import comparison_sets
from asu_lora.studies.compare.reproduce import reproduce
from asu_lora.studies.compare.search import Searcher
from asu_lora.studies.compare.search_space import published
from asu_lora.studies.compare.tuning import tuning
from asu_lora.studies.methods import FIELD, PAPER, method, methods
from tests.support.listener import Listener
from tests.support.tiny_run import FACTS, rows, tiny_settings

SETTINGS = tiny_settings(own_words=0.0, epochs=1, batch_size=3)
REQUEST = ForgetRequest.from_rows(rows(FACTS[:3]), rows(FACTS[6:]), "tiny")
OTHER = ForgetRequest.from_rows(rows(FACTS[3:6]), [], "other")
SETS = comparison_sets(REQUEST, most=3)[0]
CHOSEN = methods(["SIMNPO_GD", "GA_GD"])
RUNS = plan_runs(CHOSEN, {"SIMNPO_GD": [1e-3], "GA_GD": [1e-3]})
TYPED = ("forget_coeff", "retain_coeff")
OWN = {"forget_coeff": 0.125, "retain_coeff": 1.0}


@pytest.fixture(scope="module")
def made(base, tmp_path_factory):
    """A comparison at its own weights, as an earlier version made it, and then at the papers'."""
    out = tmp_path_factory.mktemp("weighed") / "out"
    before = compare(REQUEST, base, SETS, RUNS, out, SETTINGS, given=TYPED)
    heard = Listener()
    return before, compare(REQUEST, base, SETS, RUNS, out, SETTINGS, progress=heard), heard


def test_the_rows_of_the_paper_are_those_that_they_were():
    runs = plan_runs(methods(PAPER), {name: [1e-3] for name in PAPER})
    assert weighted(runs, SETTINGS) == runs == weighted(runs, ForgetConfig())
    others = weighted([Run(method(name), 1e-3) for name in FIELD], ForgetConfig())
    assert {run.method.name: dict(run.changes) for run in others} == {
        "SIMNPO_GD": OWN,
        "RMU_RMU": {"retain_coeff": 1200.0},
        "UNDIAL_NONE": {},
        "ALTPO_GD": {"retain_coeff": 1.0},
        "WGA_GD": {"retain_coeff": 1.0},
        "SATIMP_GD": {"forget_coeff": 0.1, "retain_coeff": 1.0},
        "CEU_NONE": {},
        "PDU_GD": {"retain_coeff": 100.0},
        "JENSUN_JS": {"retain_coeff": 1.0},
    }
    config = others[0].config(SETTINGS)
    assert (config.forget_coeff, config.retain_coeff) == (0.125, 1.0)


def test_a_run_with_other_weights_is_another_run():
    plain = Run(method("SIMNPO_GD"), 1e-3)
    [own] = weighted([plain], SETTINGS)
    assert own.name != plain.name and run_identity({}, own) != run_identity({}, plain)
    assert own.title == "SIMNPO_GD, lr 0.001, forget_coeff 0.125, retain_coeff 1"
    assert weighted([plain], SETTINGS, TYPED) == [plain]
    chosen = Run.of(plain.method, 1e-3, {"retain_coeff": 3.0})
    assert dict(weighted([chosen], SETTINGS)[0].changes) == OWN | {"retain_coeff": 3.0}


def test_a_folder_from_before_is_not_taken_for_it(made):
    before, now, heard = made
    assert [result.changes for result in before.results] == [{}, {}, {}]
    assert sum("Training" in stage for stage in heard.stages) == 1  # GA_GD is there, SIMNPO_GD at these weights is not
    simnpo = [result for result in now.results if result.method == "SIMNPO_GD"]
    assert len(simnpo) == 2 and all(each in [result.changes for result in simnpo] for each in (OWN, {}))
    for result in simnpo:
        method_of = read_manifest(now.out / "adapters" / result.adapter).method
        wanted = result.changes or {"forget_coeff": SETTINGS.forget_coeff, "retain_coeff": SETTINGS.retain_coeff}
        assert {"forget_coeff": method_of.forget_coeff, "retain_coeff": method_of.retain_coeff} == wanted
    one, two = (result.training["train_loss"] for result in simnpo)
    assert one != two


def test_both_rows_are_made_again_from_their_records(made, base):
    _, now, _ = made
    for result in now.results:
        if result.method == "SIMNPO_GD":
            assert reproduce(Comparison(REQUEST, base, SETS, now.out, SETTINGS), result.adapter, Listener()).same


def test_a_search_begins_with_the_papers_weights_and_keeps_what_it_does_not_vary(base, tmp_path, monkeypatch):
    monkeypatch.setattr("asu_lora.studies.compare.search.PRUNED_FROM", 1)  # as of many trials, with a quarter first
    assert published(method("RMU_RMU"), SETTINGS)["retain_coeff"] == 1200
    assert published(method("RMU_RMU"), SETTINGS, TYPED)["retain_coeff"] == 1.5
    assert published(method("NPO_GD"), SETTINGS)["retain_coeff"] == 1.5
    plan, simnpo = tuning(1, REQUEST, SETS, OTHER, most=3), method("SIMNPO_GD")
    searcher = Searcher(Comparison(REQUEST, base, SETS, tmp_path, SETTINGS), plan, Listener())
    searcher.tune([simnpo])
    [trial], best = searcher.trials(simnpo), searcher.best(simnpo)
    assert trial.settings["retain_coeff"] == 1.0 and "forget_coeff" not in trial.settings
    assert best.config(SETTINGS).forget_coeff == 0.125
    tried = [json.loads(path.read_text())["changes"] for path in tmp_path.glob("search/**/runs/*.json")]
    assert len(tried) == 2 and all(each["forget_coeff"] == 0.125 for each in tried)  # a quarter, and the whole
    searcher.close()


def test_the_command(taught_base, tmp_path):
    files = []
    for name, content in (("f", rows(FACTS[:2])), ("r", rows(FACTS[6:]))):
        files.append(tmp_path / f"{name}.jsonl")
        files[-1].write_text("\n".join(map(json.dumps, content)))
    words = ["compare", str(files[0]), "--retain", str(files[1]), "--base", str(taught_base)]
    words += "--precision fp32 --device cpu --epochs 1 --questions 2 --methods wga_gd --json".split()

    def changes(out, *more):
        done = CliRunner().invoke(main, [*words, "--out", str(tmp_path / out), *more])
        assert done.exit_code == 0, done.output
        return [run["changes"] for run in json.loads(done.stdout)["runs"] if run["method"] == "WGA_GD"]

    assert changes("out") == [{"retain_coeff": 1.0}]
    assert changes("typed", "--retain-coeff", "1.5") == [{}]
