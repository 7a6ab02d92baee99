"""What a comparison holds its runs against beside the scores: the worst way of asking, a model that never saw it."""

import shutil

import pytest

from asu_lora.audit.request import AuditRequest
from asu_lora.audit.run import audit
from asu_lora.audit.settings import AuditSettings
from asu_lora.data.request import ForgetRequest
from asu_lora.errors import DataError, NotEnoughMemory, SettingError
from asu_lora.evaluation.retain_log import read_log
from asu_lora.studies.compare import runner
from asu_lora.studies.compare.compare import Comparison, compare
from asu_lora.studies.compare.grid import plan_runs
from asu_lora.studies.compare.leak import WAYS
from asu_lora.studies.compare.questions import comparison_sets
from asu_lora.studies.compare.report import as_markdown, write_report
from asu_lora.studies.compare.reproduce import reproduce
from asu_lora.studies.methods import methods
from tests.support.listener import Listener
from tests.support.tiny_run import FACTS, rows, tiny_settings

WRONG = {"perturbed_answer": ["He sells ham.", "She reads."]}
FORGET = [row | WRONG | {"paraphrased_answer": row["answer"]} for row in rows(FACTS[:5])]
REQUEST = ForgetRequest.from_rows(FORGET, [row | WRONG for row in rows(FACTS[6:])], "tiny")
SETS = comparison_sets(REQUEST, most=5)[0]
CHOSEN = methods(["ASU_KL"])
SETTINGS = tiny_settings(own_words=0.0)


def again(base, out, **others):
    listener = Listener()
    runs = plan_runs(CHOSEN, {chosen.name: [2e-3] for chosen in CHOSEN})
    result = compare(REQUEST, base, SETS, runs, out, SETTINGS, progress=listener, **others)
    return result, listener


@pytest.fixture(scope="module")
def asked(base, tmp_path_factory):
    """The comparison without leaks, the same with them, and what was heard of the second."""
    out = tmp_path_factory.mktemp("beside") / "out"
    plain, _ = again(base, out, records=True)
    return plain, *again(base, out, records=True, leaks=True)


@pytest.fixture(scope="module")
def made(asked):
    return asked[1]


def leaks(result):
    return {row.method: row.held_against("leak") for row in result.best}


def test_the_base_tells_in_the_worst_way_and_an_adapter_less(made):
    found = leaks(made)
    assert found["Base"] > 0.9 and found["ASU_KL"] < found["Base"]
    assert "Worst leak" in as_markdown(made) and "the mean over 16 forget rows at most" in as_markdown(made)
    assert "forget quality" not in as_markdown(made)


def test_it_is_what_an_audit_finds(made, taught_base):
    [adapter] = [row.adapter for row in made.best if row.adapter]
    asked = AuditRequest(
        REQUEST.forget,
        base=str(taught_base),
        adapters=(adapter,),
        store=made.out / "adapters",
        retain=REQUEST.retain,
        precision="fp32",
        device="cpu",
    )
    found = audit(asked, AuditSettings((*WAYS, "worst_of_asking"), "quick", seed=SETTINGS.seed))
    [worst] = [attack for attack in found.attacks if attack.attack == "worst_of_asking"]
    assert leaks(made)["ASU_KL"] == pytest.approx(worst.readings[0].candidate.value)


def test_a_row_that_is_there_is_asked_alone(asked):
    plain, made, heard = asked
    assert leaks(plain) == {"Base": None, "ASU_KL": None}
    assert not any(word in stage for stage in heard.stages for word in ("Training", "Answering", "Scoring"))
    assert made.results[1].scores == plain.results[1].scores


def test_forget_quality_against_a_log(made, base, tmp_path):
    log = made.out / "runs" / "Base.records.jsonl"  # stands in for a model that never saw the request
    result, _ = again(base, made.out, records=True, leaks=True, reference=read_log(log))
    found = {row.method: row.held_against("forget quality") for row in result.best}
    assert found["Base"] == 1 and 0 < found["ASU_KL"] <= 1
    written = write_report(result, "asu-lora compare ...")
    assert any("forget quality" in path.read_text() for path in written if path.suffix == ".csv")
    comparison = Comparison(REQUEST, base, SETS, made.out, SETTINGS)
    name = next(row.adapter for row in result.best if row.adapter)
    with pytest.raises(SettingError, match="give the --retain-log"):
        reproduce(comparison, name, Listener())
    comparison.reference = read_log(log)
    assert reproduce(comparison, name, Listener()).same
    with pytest.raises(DataError, match="other questions"):
        again(base, tmp_path / "out", reference=[record | {"question": "Who?"} for record in read_log(log)])


def test_another_log_is_held_against_every_row_anew(made, base, tmp_path):
    """A resumed comparison kept the p-values of the first log beside those of the second."""
    out = shutil.copytree(made.out, tmp_path / "out")
    base_rows, others = (read_log(out / "runs" / f"{name}.records.jsonl") for name in ("Base", made.results[1].adapter))
    again(base, out, reference=base_rows)
    found = {row.method: row.held_against("forget quality") for row in again(base, out, reference=others)[0].best}
    assert found["ASU_KL"] == 1 and found["Base"] < 1
    heard = again(base, out, reference=others)[1]
    assert not any("Answers" in stage for stage in heard.stages)
    comparison = Comparison(REQUEST, base, SETS, out, SETTINGS, reference=base_rows)
    with pytest.raises(SettingError, match="give the --retain-log that it was held against"):
        reproduce(comparison, "Base", Listener())
    runs = plan_runs(methods(["Base"]), {})
    alone = compare(REQUEST, base, SETS, runs, out, SETTINGS, reference=base_rows)  # its other row is of the other log
    assert {row.method: row.held_against("forget quality") for row in alone.best} == {"Base": 1, "ASU_KL": None}


def test_a_request_without_facts_leaks_nothing_that_can_be_told(base, tmp_path):
    plain = ForgetRequest.from_rows(
        [{"question": "Is Anna a baker?", "answer": "Anna is a baker."}], rows(FACTS[6:]), "tiny"
    )
    listener = Listener()
    sets = comparison_sets(plain, most=2)[0]
    result = compare(
        plain, base, sets, plan_runs(methods(["Base"]), {}), tmp_path / "out", SETTINGS, leaks=True, progress=listener
    )
    assert leaks(result) == {"Base": None}


def test_what_ran_out_of_memory_after_training_is_not_trained_again(base, tmp_path, monkeypatch):
    def no_memory(*things, **more):
        raise NotEnoughMemory("Too little.") from MemoryError()

    with monkeypatch.context() as patched:
        patched.setattr(runner, "worst_leak", no_memory)
        short, _ = again(base, tmp_path / "out", leaks=True)
    assert [row.state for row in short.results] == ["failed", "failed"]  # the base's row, too
    before = (tmp_path / "out/adapters/ASU_KL-lr-0.002/adapter_model.safetensors").stat()
    monkeypatch.setattr(runner, "forget", no_memory)
    whole, _ = again(base, tmp_path / "out", leaks=True)
    assert [row.state for row in whole.results] == ["done", "done"] and set(leaks(whole)) == {"Base", "ASU_KL"}
    assert (tmp_path / "out/adapters/ASU_KL-lr-0.002/adapter_model.safetensors").stat() == before
