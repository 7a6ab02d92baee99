"""ROUGE-L recall against hand-counted values and a longest common subsequence of the test's own."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.stem.porter import PorterStemmer
from rouge_score.tokenizers import DefaultTokenizer

from asu_lora.evaluation.metrics.rouge import rouge_l_recall

VOCABULARY = ["the", "cat", "cats", "sat", "sitting", "on", "mats", "mat", "1949", "Kuwait"]
WORDS = st.lists(st.sampled_from(VOCABULARY), max_size=12)


def recall_by_recursion(prediction: str, reference: str) -> float:
    tokenize = DefaultTokenizer(use_stemmer=True).tokenize
    said, truth = tokenize(prediction), tokenize(reference)
    known: dict[tuple[int, int], int] = {}

    def common(i: int, j: int) -> int:  # length of the LCS of said[i:] and truth[j:]
        if i == len(said) or j == len(truth):
            return 0
        if (i, j) not in known:
            same = said[i] == truth[j]
            known[i, j] = 1 + common(i + 1, j + 1) if same else max(common(i + 1, j), common(i, j + 1))
        return known[i, j]

    return common(0, 0) / len(truth) if truth and said else 0.0


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("Paris", "Paris", 1.0),
        ("It is Paris, I think.", "Paris", 1.0),  # recall: saying more costs nothing
        ("the cat sat on the mat", "the cat sat down", 3 / 4),
        ("mat the on sat cat the", "the cat sat on the mat", 3 / 6),  # in order: the, sat, the
        ("the authors wrote novels", "the author writing novel", 3 / 4),  # stems: author, novel
        ("", "Paris", 0.0),
        ("Paris", "", 0.0),
        ("Rome", "Paris", 0.0),
    ],
)
def test_hand_counted(prediction, reference, expected):
    assert rouge_l_recall(prediction, reference) == pytest.approx(expected)


def test_stemming_is_porters():
    assert PorterStemmer().stem("fictitious") == PorterStemmer().stem("fictitiously")
    assert rouge_l_recall("fictitiously", "fictitious") == 1.0


@settings(deadline=None)
@given(WORDS, WORDS)
def test_same_as_own_lcs(prediction, reference):
    prediction, reference = " ".join(prediction), " ".join(reference)
    assert rouge_l_recall(prediction, reference) == pytest.approx(recall_by_recursion(prediction, reference))


@settings(deadline=None)
@given(st.text(max_size=60), st.text(max_size=60))
def test_range_and_identity(prediction, reference):
    assert 0.0 <= rouge_l_recall(prediction, reference) <= 1.0
    assert rouge_l_recall(reference + " " + prediction, reference) in (0.0, 1.0)
