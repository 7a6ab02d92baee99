"""Trials of asu-lora compare --search, one by one: shared by processes, lost with one of them, given up early."""

from asu_lora.data.request import ForgetRequest
from asu_lora.errors import NotEnoughMemory
from asu_lora.progress import Progress
from asu_lora.studies.compare import runner
from asu_lora.studies.compare.compare import Comparison
from asu_lora.studies.compare.questions import comparison_sets
from asu_lora.studies.compare.search import Searcher, search
from asu_lora.studies.compare.search_space import published
from asu_lora.studies.compare.tuning import tuning
from asu_lora.studies.methods import method
from tests.support.listener import Listener
from tests.support.tiny_run import FACTS, rows, tiny_settings

SETTINGS = tiny_settings(own_words=0.0, epochs=1, batch_size=3)
REQUEST = ForgetRequest.from_rows(rows(FACTS[:3]), rows(FACTS[6:]), "tiny")
OTHER = ForgetRequest.from_rows(rows(FACTS[3:6]), [], "other")
SETS = comparison_sets(REQUEST, most=3)[0]


def test_a_trial_whose_process_is_gone_is_begun_again_by_another(base, tmp_path):
    """The first process holds its lock: the second leaves its trial alone, until the lock is gone."""
    comparison = Comparison(REQUEST, base, SETS, tmp_path, SETTINGS)
    plan = tuning(2, REQUEST, SETS, OTHER, most=3)
    one, two = (Searcher(comparison, plan, Progress()) for _ in range(2))
    npo = method("NPO_GD")
    lost = one.next_trial(one.study(npo), npo)
    other = two.next_trial(two.study(npo), npo)
    assert lost.params == published(npo, SETTINGS) and other.params != lost.params
    assert two.next_trial(two.study(npo), npo) is None
    one.alive.release()
    again = two.next_trial(two.study(npo), npo)
    assert again.number == 2 and again.params == lost.params
    two.close()
    assert not list(tmp_path.glob("search/.worker-*"))


def test_another_processs_trial_is_waited_for_when_no_more_is_to_do(base, tmp_path, monkeypatch):
    comparison = Comparison(REQUEST, base, SETS, tmp_path, SETTINGS)
    plan = tuning(1, REQUEST, SETS, OTHER, most=3)
    one, two = (Searcher(comparison, plan, Progress()) for _ in range(2))
    npo, ga, made = method("NPO_GD"), method("GA_GD"), []
    one.next_trial(one.study(npo), npo)
    monkeypatch.setattr(two, "score", lambda runner, run, trial: made.append(run.method.name) or 0.5)

    def the_other_is_killed(seconds):
        assert made == ["GA_GD"]
        one.alive.release()

    monkeypatch.setattr("asu_lora.studies.compare.search.time.sleep", the_other_is_killed)
    two.tune([npo, ga])
    assert made == ["GA_GD", "NPO_GD"]


def test_a_trial_below_the_median_is_given_up_early(base, tmp_path, monkeypatch):
    """With scores that are set, so that the third trial and the fifth are the worst after a quarter."""
    comparison = Comparison(REQUEST, base, SETS, tmp_path, SETTINGS)
    searcher, npo = Searcher(comparison, tuning(5, REQUEST, SETS, OTHER, most=3), Progress()), method("NPO_GD")
    given = iter([0.5, 0.55, 0.6, 0.65, 0.1, 0.7, 0.0, 0.2])
    monkeypatch.setattr(searcher, "score", lambda runner, run, trial: next(given))
    searcher.tune([npo])
    assert [(t.state, t.early, t.score) for t in searcher.trials(npo)] == [
        ("complete", 0.5, 0.55),
        ("complete", 0.6, 0.65),
        ("pruned", 0.1, None),
        ("complete", 0.7, 0.0),
        ("pruned", 0.2, None),
    ]
    assert searcher.best(npo).name.startswith("NPO_GD-lr-")


def test_a_trial_without_memory_is_made_by_the_next_command_and_counts_for_nothing(base, tmp_path, monkeypatch):
    comparison = Comparison(REQUEST, base, SETS, tmp_path, SETTINGS)
    plan, train, heard = tuning(2, REQUEST, SETS, OTHER, most=3), runner.forget, Listener()
    npo, ga = method("NPO_GD"), method("GA_GD")

    def no_memory(request, base, config, **more):
        if config.objective == "ga":
            raise NotEnoughMemory("Too little.") from MemoryError()
        return train(request, base, config, **more)

    monkeypatch.setattr(runner, "forget", no_memory)
    chosen, trials = search(comparison, plan, [ga, npo], heard)
    assert [run.method.name for run in chosen] == ["NPO_GD"] and [trial.method for trial in trials] == ["NPO_GD"] * 2
    assert any("GA_GD" in note and "not enough memory" in note for note in heard.notes)
    monkeypatch.setattr(runner, "forget", train)
    chosen, trials = search(comparison, plan, [ga, npo], Progress())
    assert [run.method.name for run in chosen] == ["GA_GD", "NPO_GD"]
    found = [trial for trial in trials if trial.method == "GA_GD"]
    assert len(found) == 2 and found[0].settings == published(ga, SETTINGS) and all(trial.score for trial in found)
