"""A score that knows what it lacks: its parts, its means, and numbers that are no scores."""

import math

import pytest

from asu_lora.errors import DataError
from asu_lora.evaluation.score import Score, checked_share, harmonic_mean, one_value


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((0.5, -1, 3, ("a",)), "A score can't use -1 of 3 metrics."),
        ((0.5, 4, 3, ()), "A score can't use 4 of 3 metrics."),
        ((None, 0, 0, ()), "A score can't use 0 of 0 metrics."),
        ((0.5, 2, 3, (), "values"), "A score of 2 of 3 values must name what it lacks."),
        ((0.5, 3, 3, ("a",)), "A score of 3 of 3 metrics must name what it lacks."),
        ((None, 2, 3, ("a",)), "A score of 2 of 3 metrics must name what it lacks."),
        ((0.5, 0, 3, ("a",)), "A score of 0 of 3 metrics must name what it lacks."),
    ],
)
def test_a_score_that_contradicts_itself_is_refused(given, said):
    with pytest.raises(DataError) as raised:
        Score(*given)
    assert str(raised.value) == said


def test_a_score_says_how_much_of_it_is_there():
    whole, part, nothing = Score(0.5, 3, 3), Score(0.5, 2, 3, ("rouge",)), Score(None, 0, 1, ("a",))
    assert whole.complete and whole.label("MU") == "MU"
    assert not part.complete and part.label("MU") == "MU (2 of 3 metrics)"
    assert nothing.label("FE") == "FE (0 of 1 metrics)"
    assert one_value(0.25, "x", (0.2, 0.3)) == Score(0.25, 1, 1, (), "values", (0.2, 0.3))
    assert one_value(0.0) == Score(0.0, 1, 1, (), "values", None)
    assert one_value(None, "a log") == Score(None, 0, 1, ("a log",), "values", None)
    assert one_value(None).missing == ("",)


def test_a_harmonic_mean_takes_what_has_one():
    assert harmonic_mean(iter(["1", 4, 4.0])) == pytest.approx(2.0)
    assert harmonic_mean([0.0, 5.0]) == 0.0 and isinstance(harmonic_mean([0, 1]), float)
    assert harmonic_mean([1e-308, 1e-308]) == pytest.approx(1e-308)
    for values, said in (
        ([], "The harmonic mean of no values is undefined."),
        ([0.5, -0.25], "A harmonic mean takes values of at least 0, not -0.25."),
        ([0.5, math.nan, -1.0], "A harmonic mean takes values of at least 0, not nan."),
    ):
        with pytest.raises(DataError) as raised:
            harmonic_mean(values)
        assert str(raised.value) == said


def test_a_share_lies_in_0_and_1_but_for_rounding():
    assert checked_share("x", None) is None
    assert [checked_share("x", v) for v in (0, -1e-9, 0.5, 1, 1 + 1e-9)] == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert isinstance(checked_share("x", 1), float)
    for value in (-1.1e-9, 1 + 1.1e-9, math.nan):
        with pytest.raises(DataError) as raised:
            checked_share("probability", value)
        assert str(raised.value) == f"probability is {value}; a score lies in [0, 1]."
