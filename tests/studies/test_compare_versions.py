"""asu-lora compare goes on where another commit of the same release began, and says which version made each row."""

import json
import shutil

import pytest

from asu_lora.data.request import ForgetRequest
from asu_lora.errors import SettingError
from asu_lora.studies.compare.compare import Comparison, compare
from asu_lora.studies.compare.grid import Run
from asu_lora.studies.compare.identity import run_identity, shared_identity
from asu_lora.studies.compare.questions import comparison_sets
from asu_lora.studies.compare.reproduce import reproduce
from asu_lora.studies.compare.search import Searcher
from asu_lora.studies.compare.tuning import tuning
from asu_lora.studies.methods import method
from asu_lora.version import __version__, base_version
from tests.support.listener import Listener
from tests.support.tiny_run import FACTS, rows, tiny_settings

SETTINGS = tiny_settings(epochs=1, warmup=0.0)
REQUEST = ForgetRequest.from_rows(rows(FACTS[:1]), rows(FACTS[6:]), "tiny")
OTHER = ForgetRequest.from_rows(rows(FACTS[3:5]), [], "other")
SETS = comparison_sets(REQUEST, most=1)[0]
RUNS = [Run(method("Base")), Run(method("GA_NONE"), 1e-3), Run.of(method("GA_NONE"), 1e-3, {"seed": 3})]
EARLIER = f"{base_version(__version__)}.dev7+g0123abcde"


def again(base, out):
    heard = Listener()
    return compare(REQUEST, base, SETS, RUNS, out, SETTINGS, progress=heard), heard


def written_by(out, shared):
    """Make the folder one whose identity was this."""
    (out / "settings.json").write_text(json.dumps(shared, indent=1))
    for path in (out / "runs").glob("*.json"):
        run = json.loads(path.read_text())
        identity = run_identity(shared, Run.of(method(run["method"]), run["lr"], run["changes"]))
        path.write_text(json.dumps(run | {"identity": identity}))


@pytest.fixture(scope="module")
def made(base, tmp_path_factory):
    return again(base, tmp_path_factory.mktemp("versions") / "out")[0]


def test_a_release_is_all_of_a_version_that_counts():
    for version in ("0.1.0.dev768+g2acd80f0a.d20261129", "0.1.0rc2", "0.1.0+local", "0.1.0"):
        assert base_version(version) == "0.1.0"
    assert base_version("0+unknown") == "0" and base_version("unknown") == "unknown"


def test_each_row_says_which_version_made_it(made):
    assert {run.versions["asu-lora"] for run in made.results} == {__version__}
    assert made.shared["asu-lora"] == base_version(__version__)


@pytest.mark.parametrize("hashes", ["keyed", "plain"])
def test_another_commits_folder_goes_on_with_every_row(made, base, tmp_path, hashes):
    """Rows with changes, such as another seed, are known again too."""
    out = shutil.copytree(made.out, tmp_path / "out")
    shared = made.shared if hashes == "keyed" else shared_identity(made, lambda plain: plain)
    written_by(out, shared | {"asu-lora": EARLIER})
    result, heard = again(base, out)
    assert not any("Training" in stage for stage in heard.stages) and len(result.results) == 3
    assert json.loads((out / "settings.json").read_text()) == made.shared
    assert again(base, out)[1].figures == []


def test_another_release_is_another_comparison(made, base, tmp_path):
    out = shutil.copytree(made.out, tmp_path / "out")
    written_by(out, made.shared | {"asu-lora": "99.1.dev7+g0123abcde"})
    with pytest.raises(SettingError, match="asu-lora is 99.1 there"):
        again(base, out)


def test_a_row_of_another_commit_is_made_again_and_the_folder_left_as_it_is(made, base, tmp_path):
    out = shutil.copytree(made.out, tmp_path / "out")
    written_by(out, made.shared | {"asu-lora": EARLIER})
    before = {path: path.read_bytes() for path in out.rglob("*.json")}
    assert reproduce(Comparison(REQUEST, base, SETS, out, SETTINGS), RUNS[2].name, Listener()).same
    assert {path: path.read_bytes() for path in out.rglob("*.json")} == before


def test_a_search_of_another_commit_goes_on(made, base, tmp_path):
    out = shutil.copytree(made.out, tmp_path / "out")
    plan, ga = tuning(1, REQUEST, SETS, OTHER, most=2), method("GA_NONE")
    written_by(out, made.shared | {"asu-lora": EARLIER})
    searcher = Searcher(Comparison(REQUEST, base, SETS, out, SETTINGS), plan, Listener())
    then = run_identity(searcher.whole.comparison.shared | {"asu-lora": EARLIER}, Run(ga))
    searcher.study(ga).set_user_attr("identity", then)
    now = searcher.study(ga).user_attrs["identity"]
    assert now != then and searcher.study(ga).user_attrs["identity"] == now
    searcher.study(ga).set_user_attr("identity", "another search's")
    with pytest.raises(SettingError, match="trials of another search"):
        searcher.study(ga)
    searcher.close()
