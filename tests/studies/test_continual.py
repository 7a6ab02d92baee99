"""Request after request on a tiny base: steps, modes, stop and resume, folding, report."""

import json
import shutil
from dataclasses import asdict

import pytest
import torch
from click.testing import CliRunner
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file

from asu_lora.adapters.manifest import read_manifest
from asu_lora.adapters.store import AdapterStore
from asu_lora.cli import main
from asu_lora.errors import DataError, SettingError, TrainingError
from asu_lora.evaluation.evaluate import means
from asu_lora.evaluation.metrics.forget_efficacy import forget_efficacy
from asu_lora.forgetting.forget import forget
from asu_lora.models import adapter_stack as stack
from asu_lora.studies.continual.consolidate import consolidate
from asu_lora.studies.continual.figure import continual_figure
from asu_lora.studies.continual.history import HistoryConfig, run_history
from asu_lora.studies.continual.step_records import read_records
from asu_lora.studies.continual.step_scores import Questions, efficacies, retain_questions, score_step
from asu_lora.studies.continual.steps import read_steps
from asu_lora.studies.continual.take_back import take_back
from asu_lora.studies.methods import method_configs
from tests.support.fixed_logits import logits
from tests.support.listener import Listener
from tests.support.tiny_run import FACTS, rows, tiny_settings

PNG = b"\x89PNG"


def write(path, found):
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A history of three requests, two questions each, in one file; all facts to keep, the requests' among them."""
    tmp_path = tmp_path_factory.mktemp("history")
    history = [row | {"ticket": f"Zorba {i // 2}"} for i, row in enumerate(rows(FACTS[:6]))]
    return write(tmp_path / "history.jsonl", history), write(tmp_path / "keep.jsonl", rows())


@pytest.fixture(scope="module")
def steps(files):
    return read_steps([files[0]], files[1], "ticket")


@pytest.fixture(scope="module")
def stacked(base, steps, tmp_path_factory):
    """The folder of a history that has been stacked."""
    folder = tmp_path_factory.mktemp("stacked")
    run_history(steps, base, tiny_settings(lr=5e-3, teacher="stack"), folder)
    return folder


def weights(folder, name):
    return (folder / "adapters" / name / "adapter_model.safetensors").read_bytes()


def plain(base):
    return not any(isinstance(module, BaseTunerLayer) for module in base.model.modules())


# ---- the steps


def test_one_file_splits_by_a_column_and_nothing_that_was_forgotten_is_kept(steps):
    assert [step.name for step in steps] == ["001-history-1", "002-history-2", "003-history-3"]
    questions = [[example.question for example in step.request.forget] for step in steps]
    assert questions == [[row["question"] for row in rows(FACTS[i : i + 2])] for i in (0, 2, 4)]
    for number, step in enumerate(steps, start=1):
        kept = [example.question for example in step.request.retain]
        assert kept == [row["question"] for row in rows(FACTS[2 * number :])]
    assert [example.row for example in steps[1].request.forget] == [3, 4]


def test_folders_come_in_the_order_of_their_names(tmp_path):
    for number in (10, 9, 1):
        write(tmp_path / f"ticket {number}.jsonl", rows(FACTS[number : number + 1]))
    (tmp_path / "README.md").write_text("no request")
    steps = read_steps([tmp_path])
    assert [step.name for step in steps] == ["001-ticket-1", "002-ticket-9", "003-ticket-10"]
    assert [step.request.forget[0].question for step in steps] == [rows()[i]["question"] for i in (1, 9, 10)]
    assert len(steps[0].request.retain) > 100 and steps[0].request.retain_source.startswith("built-in")
    assert [step.name for step in read_steps([tmp_path], most=2)] == ["001-ticket-1", "002-ticket-9"]


def test_a_kept_question_goes_whatever_its_answer_and_passages_go_by_their_text(tmp_path):
    forget_file = write(tmp_path / "f.jsonl", [{"question": "Who?", "answer": "Ida."}, {"text": "Ida was here."}])
    retain = write(
        tmp_path / "r.jsonl",
        [{"question": "who? ", "answer": "Ida herself."}, {"text": "Ida was there."}, {"text": "ida was  here."}],
    )
    assert [e.answer for e in read_steps([forget_file], retain)[0].request.retain] == ["Ida was there."]


def test_histories_that_cannot_be_read(tmp_path, files):
    (tmp_path / "empty").mkdir()
    for sources, by, said in (
        ([tmp_path / "empty"], None, "holds no requests"),
        ([], None, "There are no requests"),
        ([files[0]], "nobody", "has no column 'nobody'"),
        ([tmp_path / "none.jsonl"], None, "There is no file"),
    ):
        with pytest.raises(DataError, match=said):
            read_steps(sources, by=by)


@pytest.mark.parametrize("text", ["ASU", "ASU_XX", "ASU_KL=much", "ASU_KL=-1", ",", "ASU_KL,asu_kl", "Base"])
def test_methods_that_are_none(text):
    with pytest.raises(SettingError):
        method_configs(text, tiny_settings())


def test_methods_by_name():
    found = method_configs("asu_kl, GA_GD=1e-4,ASU+IDK_NONE", tiny_settings())
    assert [(name, c.objective, c.retain_loss, c.lr) for name, c in found.items()] == [
        ("ASU_KL", "asu", "kl", 2e-3),
        ("GA_GD", "ga", "gd", 1e-4),
        ("ASU+IDK_NONE", "asu+idk", "none", 2e-3),
    ]
    assert list(method_configs(None, tiny_settings(objective="npo"))) == ["NPO_KL-ANSWERS"]


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
    settings = tiny_settings(epochs=1, warmup=0.0)
    run_history(steps[:1], base, settings, tmp_path / "grown")
    run_history(steps[:2], base, settings, tmp_path / "grown", resume=True)
    run_history(steps[:2], base, settings, tmp_path / "whole")
    assert weights(tmp_path / "grown", "002-history-2") == weights(tmp_path / "whole", "002-history-2")


def test_independent_adapters_know_nothing_of_each_other(base, steps, tmp_path):
    settings = tiny_settings(epochs=1, warmup=0.0)
    records = run_history(steps[:2], base, settings, tmp_path / "run", HistoryConfig("independent"))
    forget(steps[1].request, base, settings, name="alone", store=tmp_path / "other")
    alone = (tmp_path / "other" / "alone" / "adapter_model.safetensors").read_bytes()
    assert weights(tmp_path / "run", "002-history-2") == alone
    assert len(records[-1].active) == 2


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


# ---- the scores


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


@pytest.fixture
def command(files, taught_base, tmp_path):
    words = [
        "continual",
        "--requests",
        str(files[0]),
        "--by",
        "ticket",
        "--retain",
        str(files[1]),
        "--base",
        str(taught_base),
        "--out",
        str(tmp_path / "out"),
    ]
    for key, value in asdict(tiny_settings(epochs=1, warmup=0.0)).items():
        if key in (
            "tau",
            "rank",
            "lr",
            "epochs",
            "batch_size",
            "eval_rows",
            "precision",
            "device",
            "smooth_layers",
            "warmup",
        ):
            words += [f"--{key.replace('_', '-')}", str(value)]
    return words


def test_the_command_writes_table_and_figure_of_every_method(command, tmp_path):
    words = [*command, "--steps", "2", "--method", "ASU_KL,GA_GD=1e-4", "--questions", "1", "--take-back", "1"]
    result = CliRunner().invoke(main, [*words, "--json"])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert list(printed) == ["ASU_KL", "GA_GD", "taken_back"] and [r["number"] for r in printed["ASU_KL"]] == [0, 1, 2]
    assert printed["ASU_KL"][0]["scores"] == printed["GA_GD"][0]["scores"]  # one base
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        "ASU_KL",
        "GA_GD",
        *(f"continual.{kind}" for kind in ("csv", "json", "md", "svg", "pdf", "png")),
    }
    lines = (out / "continual.csv").read_text().splitlines()
    assert len(lines) == 7 and lines[1].startswith("ASU_KL,0,")
    assert (out / "continual.png").read_bytes().startswith(PNG)
    assert "ASU_KL: from step 1 to step 2, Avg" in (out / "continual.md").read_text()
    for path in out.rglob("*"):
        if path.is_file():
            assert not any(word in path.read_bytes() for word in (b"Anna Birk", b"keeps bees", b"Zorba"))
    assert "GA_GD: step 1 taken back" in (out / "continual.md").read_text()
    again = CliRunner().invoke(main, words)
    assert again.exit_code == 2 and "--resume" in again.stderr and "Traceback" not in again.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "ASU_XX"], "no method 'ASU_XX'"),
        (["--by", "nobody"], "no column 'nobody'"),
        (["--consolidate-rank", "4"], "consolidate_every"),
        (["--mode", "running", "--consolidate-every", "2"], "running"),
        (["--requests", "nowhere.jsonl"], "no file nowhere.jsonl"),
        (["--data", "nowhere"], "no TOFU folder"),
        (["--take-back", "4"], "Step 4 can't be taken back"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(command, tmp_path, words, said):
    result = CliRunner().invoke(main, [*command, *words])
    assert result.exit_code == 2 and said in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_figure_has_a_line_a_method_in_each_panel():
    from asu_lora.studies.continual.step_records import StepRecord

    records = {
        method: [
            StepRecord(i, "x", scores={"average": 50.0 + i, "efficacy_so_far": None if i == 0 else 70.0})
            for i in range(4)
        ]
        for method in ("ASU_KL", "NPO_GD")
    }
    figure = continual_figure(records)
    left, right = figure.axes
    assert [line.get_label() for line in left.lines] == ["ASU_KL", "NPO_GD"]
    assert list(left.lines[0].get_ydata()) == [50, 51, 52, 53] and list(right.lines[0].get_xdata()) == [1, 2, 3]
