"""ROUGE-L recall against hand-counted values and a longest common subsequence of the test's own."""

import subprocess
import sys

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


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("Анна живёт в Москве.", "анна живет в Москве", 1.0),
        ("Анна живёт в Риге, 12", "Анна живёт в Москве с 12", 4 / 6),
        ("मोदी प्रधानमंत्री हैं", "मोदी भारत के प्रधानमंत्री हैं", 3 / 5),
        ("東京に住む", "彼女は東京に住んでいます", 4 / 12),  # by signs, as there are no spaces
        ("She lives there.", "Анна живёт в Москве", 0.0),
        ("", "Анна", 0.0),
        ("in ١٣٥٧", "١٣٥٧", 1.0),  # no letter at all, and no digit of Google's
        ("١٣٥٨", "١٣٥٧", 0.0),
        ("ŻĆ!", "żć", 1.0),  # Latin, but none of a-z
    ],
)
def test_an_answer_in_another_script_has_words_too(prediction, reference, expected):
    assert rouge_l_recall(prediction, reference) == pytest.approx(expected)


def test_a_word_of_another_script_in_an_english_answer_changes_nothing():
    """TOFU has two such answers."""
    truth = 'The book titled "Лісова пісня" (Forest Song) shows it.'
    assert rouge_l_recall("The book is Forest Song", truth) == recall_by_recursion("The book is Forest Song", truth)


def test_a_callers_logging_stays_as_it_was():
    """Google's rouge-score logs through absl, which gives a root logger without handlers one of its own."""
    code = (
        "import logging; from asu_lora.evaluation.metrics.rouge import rouge_l_f1, rouge_l_recall; "
        "rouge_l_recall('a cat', 'a cat'); rouge_l_f1('a cat', 'a cat'); rouge_l_recall('\u0430', '\u0430'); "
        "print(logging.root.handlers)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


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
