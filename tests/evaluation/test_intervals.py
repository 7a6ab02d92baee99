"""Bootstrap intervals: against a plain bootstrap by hand, the same every time, on every figure."""

import json
import random
from statistics import fmean

import numpy as np
import pytest

from asu_lora.evaluation.intervals import (
    RESAMPLES,
    interval,
    intervals,
    mean_interval,
    set_intervals,
    utility_intervals,
    with_interval,
)
from asu_lora.evaluation.metrics.auc import auc
from asu_lora.evaluation.metrics.model_utility import SIX_METRICS, UTILITY_SETS
from asu_lora.evaluation.result import Evaluation
from asu_lora.evaluation.set_means import means

METRICS = (*SIX_METRICS, "truth_share", "exact_memorization", "extraction_strength", "min_k", "gibberish")


def records(sizes=(("forget", 30), ("retain", 40), ("real_authors", 25), ("world_facts", 25)), seed=0):
    draw = random.Random(seed)
    return [
        {"set": name, "row": row} | {metric: draw.random() + 2 * (metric == "truth_ratio") for metric in METRICS}
        for name, size in sizes
        for row in range(size)
    ]


def evaluation(found):
    names = dict.fromkeys(record["set"] for record in found)
    return Evaluation({name: means([r for r in found if r["set"] == name], name) for name in names}, found)


def test_an_interval_is_the_percentiles_of_resampled_figures():
    """By hand with another generator: the bounds agree to the noise of a thousand draws."""
    values = np.array([random.Random(i).gauss(0, 1) for i in range(200)])
    rng = np.random.default_rng(7)
    by_hand = np.percentile([values[rng.integers(0, 200, 200)].mean() for _ in range(4000)], [2.5, 97.5])
    low, high = interval(lambda rows: float(values[rows].mean()), len(values))
    assert [low, high] == pytest.approx(by_hand.tolist(), abs=0.02)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 200**0.5, rel=0.1)


@pytest.mark.parametrize("size", [2, 3, 40, 1000])
def test_a_mean_of_all_draws_at_once_is_that_of_one_after_another(size):
    values = np.array([random.Random(i).random() for i in range(size)])
    one_by_one = interval(lambda rows: float(values[rows].mean()), size)
    assert mean_interval(values) == pytest.approx(one_by_one, rel=1e-12) and mean_interval(values[:1]) is None


def test_two_samples_are_drawn_apart():
    members, others = [float(i) for i in range(10, 40)], [float(i) for i in range(30)]
    score = with_interval(auc, members, others)
    low, high = score.interval
    assert score.value == auc(members, others) and low < score.value < high
    rng = np.random.default_rng(3)
    drawn = [auc(rng.choice(members, 30).tolist(), rng.choice(others, 30).tolist()) for _ in range(2000)]
    assert [low, high] == pytest.approx(np.percentile(drawn, [2.5, 97.5]).tolist(), abs=0.03)


def test_the_same_records_give_the_same_intervals_and_a_seed_others():
    found = evaluation(records()).summary()
    assert found == evaluation(records()).summary()
    values = np.array([record["rouge"] for record in records()])
    one, two = (interval(lambda rows: float(values[rows].mean()), len(values), seed=seed) for seed in (0, 1))
    assert one != two and RESAMPLES >= 1000


def test_every_figure_of_a_summary_has_its_interval():
    summary = json.loads(json.dumps(evaluation(records()).summary(), allow_nan=False))
    for name, score in summary["scores"].items():
        low, high = score["interval"]
        assert low <= score["value"] <= high and low < high, name
    for name, values in summary["sets"].items():
        assert summary["intervals"][name].keys() == values.keys()
        for metric, (low, high) in summary["intervals"][name].items():
            assert low < values[metric] < high, (name, metric)


def test_utility_moves_with_the_sets_it_is_made_of_alone():
    """MU's interval by hand: each set drawn by itself, the harmonic mean of all values each time."""
    found = records()
    columns = {name: [r for r in found if r["set"] == name] for name in UTILITY_SETS}
    rng, drawn = np.random.default_rng(5), []
    for _ in range(2000):
        values = []
        for name in UTILITY_SETS:
            rows = [columns[name][i] for i in rng.integers(0, len(columns[name]), len(columns[name]))]
            values += [
                fmean(max(0.0, 1 - 1 / r[metric]) if metric == "truth_ratio" else r[metric] for r in rows)
                for metric in SIX_METRICS
            ]
        drawn.append(0.0 if min(values) == 0 else len(values) / sum(1 / value for value in values))
    bounds = utility_intervals(evaluation(found).sets, found)["MU"]
    assert list(bounds) == pytest.approx(np.percentile(drawn, [2.5, 97.5]).tolist(), abs=0.01)
    other = [r | ({"rouge": 0.0} if r["set"] == "forget" else {}) for r in found]
    assert utility_intervals(evaluation(other).sets, other)["MU"] == bounds


def test_what_can_not_be_drawn_again_has_no_interval():
    assert interval(lambda rows: 1.0, 1) is None and intervals(lambda draws: [1.0, 2.0], []) == [None, None]
    assert interval(lambda rows: float("nan") if rows[0] == 0 else 1.0, 5) is None
    single = evaluation(records((("forget", 1), ("retain", 5))))
    summary = single.summary()
    assert summary["intervals"]["forget"] == {} and summary["scores"]["FE"]["interval"] is None
    assert set_intervals({"forget": {"rouge": None}}, single.records) == {"forget": {}}


def test_a_passage_has_no_say_in_the_interval_of_answers():
    found = records((("forget", 20),))
    passages = [{"set": "forget", "row": 20 + i, "probability": 0.5} for i in range(20)]
    both = evaluation(found + passages).summary()
    assert both["intervals"]["forget"]["rouge"] == evaluation(found).summary()["intervals"]["forget"]["rouge"]
    assert both["scores"]["FE"]["interval"] is not None


def test_a_set_of_one_row_leaves_scores_without_an_interval_rather_than_with_that_of_other_sets():
    found = records((("forget", 20), ("retain", 1), ("real_authors", 20), ("world_facts", 20)))
    found = [row | ({"rouge": 0.02, "probability": 0.02} if row["set"] == "retain" else {}) for row in found]
    scores = evaluation(found).summary()["scores"]
    low, high = scores["FE"]["interval"]
    assert low <= scores["FE"]["value"] <= high
    assert [scores[name]["interval"] for name in ("MU", "TOFU MU", "Avg")] == [None] * 3
