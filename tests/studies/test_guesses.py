"""A study's files confirm no guess of a request, and go on from those of earlier versions, which did."""

import json
import shutil

import pytest

from asu_lora.adapters.request_key import KEY_NAME
from asu_lora.adapters.store import AdapterStore
from asu_lora.data.request import ForgetRequest
from asu_lora.errors import SettingError, TrainingError
from asu_lora.forgetting.forget import forget
from asu_lora.studies.compare.compare import compare
from asu_lora.studies.compare.grid import Run
from asu_lora.studies.compare.identity import _questions, run_identity, shared_identity
from asu_lora.studies.compare.questions import comparison_sets
from asu_lora.studies.compare.report import write_report
from asu_lora.studies.continual.history import run_history
from asu_lora.studies.continual.report import write_report as write_history
from asu_lora.studies.continual.steps import Step
from asu_lora.studies.methods import method
from tests.support.listener import Listener
from tests.support.tiny_run import FACTS, rows, tiny_settings

KEPT = rows(FACTS[6:])
SETTINGS = tiny_settings(epochs=1, warmup=0.0)


def request_of(fact: int) -> ForgetRequest:
    return ForgetRequest.from_rows(rows(FACTS[fact : fact + 1]), KEPT, "tiny")


def files_that_hold(folder, *guesses: str) -> list[str]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    assert found
    return [path.name for path in found if any(guess.encode() in path.read_bytes() for guess in guesses)]


@pytest.fixture(scope="module")
def compared(base, tmp_path_factory):
    """A comparison of a request of one row; and the same as an earlier version left it."""
    folder = tmp_path_factory.mktemp("compared")
    comparison = compare_again(base, folder / "new")
    write_report(comparison)
    old = shutil.copytree(folder / "new", folder / "old")
    (old / "adapters" / KEY_NAME).unlink()
    plain = shared_identity(comparison, lambda text: text)
    (old / "settings.json").write_text(json.dumps(plain, indent=1))
    for path in (old / "runs").glob("*.json"):
        run = json.loads(path.read_text())
        run["identity"] = run_identity(plain, Run(method(run["method"]), run["lr"]))
        path.write_text(json.dumps(run))
    return folder


def compare_again(base, out, fact=0, progress=None):
    request, runs = request_of(fact), [Run(method("Base"), None), Run(method("GA_NONE"), 1e-3)]
    return compare(request, base, comparison_sets(request, most=1)[0], runs, out, SETTINGS, progress=progress)


def guesses(request: ForgetRequest) -> tuple[str, ...]:
    return request.fingerprint(), *(_questions(each)[:12] for each in comparison_sets(request, most=1)[0][:1])


def test_a_comparison_confirms_no_guess(compared):
    assert files_that_hold(compared / "new", "hmac-sha256:")
    assert files_that_hold(compared / "new", *guesses(request_of(0))) == []


def test_a_comparison_of_an_earlier_version_goes_on_and_confirms_none_afterwards(compared, base):
    old = compared / "old"
    assert files_that_hold(old, *guesses(request_of(0)))
    with pytest.raises(SettingError, match="another comparison"):
        compare_again(base, old, fact=1)
    heard = Listener()
    write_report(compare_again(base, old, progress=heard))
    assert heard.figures == []
    assert files_that_hold(old, *guesses(request_of(0))) == []
    heard = Listener()
    compare_again(base, old, progress=heard)
    assert heard.figures == []


def test_columns_that_training_reads_make_another_comparison(compared, base, tmp_path):
    """AltPO's own answers could be others on the second start, and the adapter of the first stood in the table."""
    out, wanted = tmp_path / "out", [Run(method("Base"), None)]

    def again(**columns):
        request = ForgetRequest.from_rows([row | columns for row in rows(FACTS[:1])], KEPT, "tiny")
        return compare(request, base, comparison_sets(request, most=1)[0], wanted, out, SETTINGS)

    again(alternate_answer="Anna Birk keeps goats.")
    with pytest.raises(SettingError, match="other columns of the forget rows differs"):
        again(alternate_answer="Anna Birk keeps owls.")
    old = json.loads((out / "settings.json").read_text())
    del old["other columns of the forget rows"]  # an earlier version's
    (out / "settings.json").write_text(json.dumps(old))
    again(alternate_answer="Anna Birk keeps goats.")
    assert files_that_hold(out, "goats") == [] and "other columns" in (out / "settings.json").read_text()


def steps_of(*facts: int) -> list[Step]:
    return [Step(number, f"{number:03d}-tiny", request_of(fact)) for number, fact in enumerate(facts, start=1)]


def test_a_history_confirms_no_guess_and_goes_on_from_one_that_did(base, tmp_path):
    steps, folder = steps_of(0, 1), tmp_path / "run"
    records = run_history(steps[:1], base, SETTINGS, folder)
    write_history(tmp_path, {"ASU": records}, {})
    guess = steps[0].request.fingerprint()
    assert files_that_hold(tmp_path, records[1].request) and files_that_hold(tmp_path, guess) == []
    state = json.loads((folder / "run.json").read_text())
    state["steps"][1]["request"] = guess
    (folder / "run.json").write_text(json.dumps(state))
    with pytest.raises(TrainingError, match="other settings, base or requests"):
        run_history(steps_of(1), base, SETTINGS, folder, resume=True)
    assert run_history(steps[:1], base, SETTINGS, folder, resume=True) == records
    assert files_that_hold(folder, guess) == []


def test_an_interrupted_run_confirms_no_guess_and_goes_on_from_one_that_did(base, tmp_path):
    guess, store = request_of(0).fingerprint(), AdapterStore(tmp_path)
    settings = tiny_settings(epochs=3)
    with pytest.raises(KeyboardInterrupt):
        forget(request_of(0), base, settings, store=tmp_path, progress=Listener(stop_at=2))
    kept = tmp_path / ".runs" / "tiny" / "run.json"
    assert files_that_hold(tmp_path, guess) == [] and store.is_request(json.loads(kept.read_text())["request"], guess)
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"request": guess}, sort_keys=True))
    with pytest.raises(TrainingError, match="other settings, base or request"):
        forget(request_of(1), base, settings, store=tmp_path, resume=True)
    heard = Listener()
    with pytest.raises(KeyboardInterrupt):
        forget(request_of(0), base, settings, store=tmp_path, resume=True, progress=Listener(stop_at=1))
    assert files_that_hold(tmp_path, guess) == []
    forget(request_of(0), base, settings, store=tmp_path, resume=True, progress=heard)
    assert len(heard.figures) < 3
