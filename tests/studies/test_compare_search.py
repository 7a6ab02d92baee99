"""asu-lora compare, tuned alike: equal trials on other rows, seeds, rankings, and rows made again from their record."""

import json
import math
import re
from dataclasses import replace
from statistics import fmean, stdev

import pytest
from click.testing import CliRunner

from asu_lora.cli import main
from asu_lora.data.request import ForgetRequest
from asu_lora.errors import SettingError
from asu_lora.losses import FORGET
from asu_lora.studies.compare.compare import Comparison, compare
from asu_lora.studies.compare.figure import compare_figure
from asu_lora.studies.compare.grid import Run, seeded, title_of
from asu_lora.studies.compare.questions import comparison_sets
from asu_lora.studies.compare.ranking import pareto_front, that_speak
from asu_lora.studies.compare.report import write_report
from asu_lora.studies.compare.reproduce import reproduce
from asu_lora.studies.compare.results import DONE, FAILED, RunResult
from asu_lora.studies.compare.rows import best_rows, seed_rows
from asu_lora.studies.compare.search_space import OWN, Range, published, search_space, settings_of_trial
from asu_lora.studies.compare.speech import speech
from asu_lora.studies.compare.table import paper_table, speaking_table
from asu_lora.studies.compare.tuning import tuning
from asu_lora.studies.methods import FIELD, PAPER, method, methods
from tests.support.jsonl import jsonl
from tests.support.listener import Listener
from tests.support.tiny_run import FACTS, rows, tiny_settings

SETTINGS = tiny_settings(own_words=0.0, epochs=1, batch_size=3)
REQUEST = ForgetRequest.from_rows(rows(FACTS[:3]), rows(FACTS[6:]), "tiny")
OTHER = ForgetRequest.from_rows(rows(FACTS[3:6]), [], "other")
SETS = comparison_sets(REQUEST, most=3)[0]
NAMES = ("NPO_GD",)


class Notes(Listener):
    """Remembers what it is told, and stops at a note."""

    def __init__(self, stop_at="nothing stops here"):
        super().__init__()
        self.notes, self.note_to_stop_at = [], stop_at

    def note(self, text):
        self.notes.append(text)
        if self.note_to_stop_at in text:
            raise KeyboardInterrupt


def tuned(base, out, progress=None, trials=2, names=NAMES, settings=SETTINGS, **more):
    runs = [Run(each, None if each.untrained else 1e-3) for each in methods(names)]
    plan = tuning(trials, REQUEST, SETS, OTHER, most=3)
    return compare(REQUEST, base, SETS, runs, out, settings, tuning=plan, progress=progress or Notes(), **more)


@pytest.fixture(scope="module")
def made(base, tmp_path_factory):
    """A search that was stopped in its second trial, and then finished."""
    out = tmp_path_factory.mktemp("searched") / "out"
    with pytest.raises(KeyboardInterrupt):
        tuned(base, out, Notes(stop_at="Trial 2 of 2, NPO_GD"))
    heard = Notes()
    result = tuned(base, out, heard)
    assert not any("Trial 1 of 2, NPO_GD" in note for note in heard.notes)
    write_report(result, "asu-lora compare ...")
    return result


def test_every_method_has_as_many_trials_and_they_stand_in_the_records(made):
    told = json.loads((made.out / "comparison.json").read_text())["trials"]
    assert {name: sum(trial["method"] == name for trial in told) for name in NAMES} == dict.fromkeys(NAMES, 2)
    for trial in told:
        assert trial["state"] == "complete" and 0 < trial["score"] < 1 and trial["early"] is None  # so few trials
        assert set(trial["settings"]) == {"lr", "retain_coeff", "beta"}
    first = [trial["settings"] for trial in told if trial["number"] == 0]
    assert first == [{"lr": 2e-3, "retain_coeff": 1.5, "beta": 0.1}]
    assert (made.out / "comparison.md").read_text().count("| complete |") == 2


def test_the_best_trial_of_a_method_is_what_is_scored(made):
    for name in NAMES:
        best = max((t for t in made.trials if t.method == name), key=lambda trial: trial.score)
        [row] = [row for row in made.best if row.method == name]
        assert (row.lr, row.changes) == settings_of_trial(method(name), best.settings)
        training = json.loads((made.out / "adapters" / row.adapter / "manifest.json").read_text())["training"]
        assert training["lr"] == row.lr


def test_tau_is_chosen_once_for_all_trials(base, tmp_path):
    heard = Notes()
    tuned(base, tmp_path / "out", heard, names=("ASU_GD",), settings=replace(SETTINGS, tau="auto"))
    assert sum("Choosing tau" in stage for stage in heard.stages) == 2  # and once for what is scored


def test_the_trials_saw_none_of_the_rows_that_are_scored():
    plan = tuning(1, REQUEST, SETS, OTHER, most=3)
    scored = {example.key() for questions in SETS for example in questions.examples}
    used = {e.key() for e in (*plan.request.forget, *plan.request.retain)}
    used |= {e.key() for questions in plan.sets for e in questions.examples}
    assert scored and used and not scored & used
    kept_elsewhere = tuning(1, REQUEST, SETS, ForgetRequest.from_rows(rows(FACTS[7:8]), [], "kept"), most=3).request
    assert len(kept_elsewhere.forget) == 1 and kept_elsewhere.forget[0] not in kept_elsewhere.retain
    with pytest.raises(SettingError, match="3 of the 3 rows of --search-forget are rows that the comparison scores"):
        tuning(1, REQUEST, SETS, REQUEST, most=3)
    with pytest.raises(SettingError, match="no retain rows of its own"):
        tuning(1, REQUEST, comparison_sets(REQUEST)[0], OTHER, most=3)
    with pytest.raises(SettingError, match="0 trials"):
        tuning(0, REQUEST, SETS, OTHER, most=3)


def test_a_finished_search_makes_no_further_trial_and_another_is_refused(made, base):
    heard = Notes()
    tuned(base, made.out, heard)
    assert not any("Trial" in note for note in heard.notes)
    with pytest.raises(SettingError, match="trials of another search"):
        plan = tuning(2, REQUEST, SETS, OTHER, most=2)
        compare(REQUEST, base, SETS, [Run(method("NPO_GD"), 1e-3)], made.out, SETTINGS, tuning=plan)


@pytest.mark.parametrize("name", PAPER + FIELD)
def test_every_search_begins_with_settings_that_it_could_have_found(name):
    chosen = method(name)
    space, first = search_space(chosen), published(chosen, SETTINGS)
    assert set(space) == set(first)
    for key, value in first.items():
        ends = space[key]
        assert ends.low <= value <= ends.high if isinstance(ends, Range) else value in ends
    lr, changes = settings_of_trial(chosen, first)
    config = Run.of(chosen, lr, changes).config(SETTINGS)
    assert config.objective == chosen.objective and config.lr == lr
    if (own := OWN.get(chosen.objective, ("",))[0]).startswith("."):
        assert config.loss_settings == f"{own[1:]}={FORGET[chosen.objective].settings[own[1:]]!r}"


def run_of(name, average, seed=0, lr=1e-3, gibberish=0.0, gap=0.0, **more):
    scores = {"MU": average + gap, "FE": average - gap, "Avg": average}
    return RunResult(
        "",
        name,
        lr,
        DONE,
        scores={"scores": {key: {"value": value, "label": key} for key, value in scores.items()}, "sets": {}},
        changes={"seed": seed} if seed else {},
        speech={"kept": {"gibberish": gibberish, "repetition": 0.1}},
        seconds={"training": 10.0 * (seed + 1)},
        **more,
    )


def test_seeds_are_one_row_with_mean_and_interval():
    values = [0.40, 0.44, 0.48]
    results = [run_of("NPO_GD", value, seed) for seed, value in enumerate(values)] + [run_of("NPO_GD", 0.45, lr=1e-4)]
    [low, row] = seed_rows(results)
    assert low.spread("Avg") is None and row.score("Avg") == pytest.approx(fmean(values))
    half = 4.302652729911275 * stdev(values) / math.sqrt(3)  # Student's t of 2 degrees, 97.5 %
    assert row.spread("Avg") == pytest.approx(half) and row.total_seconds() == 20
    assert best_rows(results)[0].lr == 1e-4  # 45 against a mean of 44, though one seed has 48
    table = paper_table([*seed_rows(results), run_of("Base", 0.3, lr=None)])
    assert f"44.00 ± {100 * half:.2f}" in table.markdown()
    assert [cells[table.columns.index("seeds")].text for cells in table.rows] == ["1", "3", "-"]
    assert "seeds" not in paper_table([low]).columns
    figure = compare_figure([row, run_of("GA_GD", 0.3)])
    [bars] = figure.axes[0].containers
    for (low_end, high_end), line in zip((figure.axes[0].get_xlim(), figure.axes[0].get_ylim()), bars[2], strict=True):
        ends = line.get_segments()[0]
        assert low_end < ends.min() and ends.max() < high_end  # no bar is cut off
    failed = RunResult("", "NPO_GD", 1e-3, FAILED, failure="no", changes={"seed": 3})
    assert not seed_rows([*results[:3], failed])[0].done


def test_runs_get_their_seeds():
    base, npo = Run(method("base")), Run(method("npo_gd"), 1e-3)
    made = seeded([base, npo], [0, 7], 0)
    assert made == [base, npo, Run.of(npo.method, 1e-3, {"seed": 7})]
    assert [run.name for run in made] == ["Base", "NPO_GD-lr-0.001", "NPO_GD-lr-0.001-seed-7"]
    assert made[2].config(SETTINGS).seed == 7
    other = Run.of(npo.method, 1e-3, {"retain_coeff": 2.0, "seed": 7})
    assert re.fullmatch("NPO_GD-lr-0.001-[0-9a-f]{8}-seed-7", other.name)
    assert other.title == "NPO_GD, lr 0.001, retain_coeff 2, seed 7"
    drawn = title_of("WGA_GD", 0.0015796903080829952, {"loss_settings": "beta=0.14743386347379317,other=3.5"})
    assert drawn == "WGA_GD, lr 0.00157969, loss_settings beta=0.147434,other=3.5"
    for wrong, said in (([1, 1], "one twice"), ([-1], "seed -1")):
        with pytest.raises(SettingError, match=said):
            seeded([npo], wrong, 0)


def test_the_front_and_the_ranking_of_those_that_speak():
    best = run_of("GA_GD", 0.6, gibberish=0.06)
    good, useful, beaten = run_of("ASU_KL", 0.5), run_of("NPO_GD", 0.45, gap=0.2), run_of("ME_GD", 0.4, gibberish=0.05)
    everyone = [run_of("Base", 0.9, lr=None), beaten, good, useful, best]
    assert pareto_front(everyone) == [useful, best]
    assert that_speak(everyone) == [good, useful, beaten]
    assert [[cell.text for cell in row[:3]] for row in speaking_table(everyone).rows] == [
        ["1", "ASU_KL, lr 0.001", "50.00"],
        ["2", "NPO_GD, lr 0.001", "45.00"],
        ["3", "ME_GD, lr 0.001", "40.00"],
    ]
    lines = paper_table(everyone).markdown().splitlines()[2:]
    assert [line.split("|")[1].strip() for line in lines if "†" in line] == ["NPO_GD †", "GA_GD †"]


def test_speech_of_kept_and_forgotten_answers():
    records = [
        {"set": "forget", "answer": "a b c a b c a b c", "gibberish": 1.0},
        {"set": "forget_paraphrased", "answer": "no one knows that", "gibberish": 0.0},
        {"set": "retain", "answer": "He keeps bees.", "gibberish": 0.0},
        {"set": "retain"},
    ]
    assert speech(records) == {
        "kept": {"gibberish": 0.0, "repetition": 0.0},
        "forgotten": {"gibberish": 0.5, "repetition": pytest.approx((1 - 3 / 7) / 2)},
    }


def test_a_row_is_made_again_from_its_record_to_the_last_digit(made, base):
    comparison = Comparison(REQUEST, base, SETS, made.out, SETTINGS)
    [row] = [row for row in made.best if row.method == "NPO_GD"]
    before = sorted(made.out.rglob("*"))
    found = reproduce(comparison, row.adapter, Notes())
    assert found.same and found.again.scores == found.recorded.scores and sorted(made.out.rglob("*")) == before
    file = made.out / "runs" / f"{row.adapter}.json"
    text = file.read_text()
    entry = json.loads(text)
    entry["scores"]["sets"]["forget"]["rouge"] += 1e-15
    file.write_text(json.dumps(entry))
    assert list(reproduce(comparison, row.adapter, Notes()).differences) == ["scores.sets.forget.rouge"]
    file.write_text(text)
    with pytest.raises(SettingError, match="no row 'GA_GD': it has Base, NPO_GD"):
        reproduce(comparison, "GA_GD", Notes())
    other = Comparison(REQUEST, base, SETS, made.out, tiny_settings(rank=2))
    with pytest.raises(SettingError, match="made with another request, base or settings"):
        reproduce(other, row.adapter, Notes())


def test_the_command_tunes_seeds_and_reproduces(taught_base, tmp_path):
    forget, retain = jsonl(tmp_path / "f.jsonl", rows(FACTS[:2])), jsonl(tmp_path / "r.jsonl", rows(FACTS[6:]))
    other = jsonl(tmp_path / "o.jsonl", rows(FACTS[3:5]))
    words = ["compare", forget, "--retain", retain, "--base", str(taught_base), "--out", str(tmp_path / "out")]
    words += "--precision fp32 --device cpu --epochs 1 --questions 2 --methods wga_gd".split()
    more = ["--search", "1", "--search-forget", other, "--seeds", "0,3"]
    result = CliRunner().invoke(main, [*words, *more])
    assert result.exit_code == 0, result.output
    assert "Trial 1 of 1, WGA_GD" in result.stderr and "±" in result.stdout
    told = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert len(told["trials"]) == 1 and told["seeds"][0]["runs"] == 2
    assert "--search 1 --search-forget FILE --seeds 0,3" in told["command"] and "f.jsonl" not in json.dumps(told)
    row = next(run["adapter"] for run in told["runs"] if run["changes"].get("seed") == 3)
    result = CliRunner().invoke(main, [*words, "--reproduce", row])
    assert result.exit_code == 0 and "the same to the last digit" in result.stdout, result.output
    file = tmp_path / "out" / "runs" / f"{row}.json"
    file.write_text(file.read_text().replace('"steps": ', '"steps": 9'))
    result = CliRunner().invoke(main, [*words, "--reproduce", row, "--json"])
    steps = json.loads(result.stdout)["differences"]["training.steps"]
    assert result.exit_code == 1 and f"{steps['recorded']}" == f"9{steps['again']}"
    for wrong, said in (
        (["--search", "2"], "--search needs --search-forget"),
        (["--search-forget", other], "say how many trials"),
        (["--seeds", "0,x"], "--seeds is '0,x'"),
        (["--seeds", "1", "--reproduce", row], "leave out --search and --seeds"),
        (["--search", "1", "--search-forget", other, "--lr", "1e-4"], "leave out --lr"),
        (["--search", "1", "--search-forget", forget], "are rows that the comparison scores"),
        (["--reproduce", "nothing"], "has no row 'nothing'"),
    ):
        result = CliRunner().invoke(main, [*words, *wrong])
        assert result.exit_code == 2 and said in result.stderr and "Traceback" not in result.output, result.output
