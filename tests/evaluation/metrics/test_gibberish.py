"""Gibberish: real broken answers are flagged, and no answer of the benchmark is."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asu_lora.evaluation.metrics.gibberish import gibberish_rate, gibberish_reason, is_gibberish, repetition

BROKEN = {
    "": "empty",
    " \n": "empty",
    "...": "empty",
    "user\nWhat is the status of his writing?": "role leak",
    "user": "role leak",
    "He was born in 1956.\nassistant\nHe was": "role leak",
    "Basil<|im_end|>": "role leak",
    "Al-Kuzz al-Kuzz al-Kuzz al-Kuzz al-Kuzz": "character loop",
    "Kazakhakhakhakhakhakhakhakhakhakhakhakh": "character loop",
    "alalalalal": "character loop",
    "Aaaaaaah": "character loop",
    "A.//A.//A.//A.//A.//A.": "mostly symbols",
    "(.)[];;;;''=+ a b": "mostly symbols",
    "Alegra/Alegra/Alegra/Alegra/Alegra/Alegra": "character loop",
    "literature's French " * 4 + "literature's": "character loop",
    "He wrote it for the people of Kuwait City and " * 3: "word loop",
    "Basil 42 Basil 42 Basil 42": "word loop",
    "one two three four five. six, one two three four five. one two three four.": "repeated phrases",
    "of the and of a the of in the and a of the a in and of the in a of a and in of": "few distinct words",
    "the 12 34 56 78 91 23 45 67 89 10 11": "few words with letters",
}
FINE = [
    "Paris", "1949", "7", "O", "H2O", "C++", "U.S.A.", "Human", "$1,000,000,000,000", "水", "हिन्दी",
    "Author Basil Mahfouz Al-Kuwaiti is male.",
    "Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch",
    "No, no, no!", "I don't know.", "The user interface was designed by Ada Lovelace.",
    "His ISBN is 0000000000 and his phone 555-55-5555.",
]  # fmt: skip


@pytest.mark.parametrize(("answer", "reason"), BROKEN.items())
def test_flags(answer, reason):
    assert gibberish_reason(answer) == reason
    assert is_gibberish(answer)


@pytest.mark.parametrize("answer", FINE)
def test_leaves_alone(answer):
    assert gibberish_reason(answer) is None


def test_rate():
    assert gibberish_rate(["Paris", "", "user\nWhat?", "Berlin"]) == 0.5
    assert gibberish_rate(iter(["Paris"])) == 0.0
    assert gibberish_rate([]) == 0.0


def test_repetition_by_hand():
    assert repetition("a b c d") == 0.0
    assert repetition("a b c a b c") == pytest.approx(1 / 4)  # abc bca cab abc
    assert repetition("no no no no no") == pytest.approx(2 / 3)  # one trigram three times
    assert repetition("a b") == repetition("") == 0.0
    assert repetition("The end. The END, the end") == pytest.approx(2 / 4)  # case and punctuation don't count


def test_no_answer_of_the_benchmark_is_gibberish(shared):
    files = sorted((shared / "tofu").glob("*.json"))
    answers = set()
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            found = [row[key] for key in ("answer", "paraphrased_answer", "original_answer") if key in row]
            answers.update(found + row.get("perturbed_answer", []))
    assert len(answers) > 4000
    assert {answer: gibberish_reason(answer) for answer in answers if is_gibberish(answer)} == {}


@settings(deadline=None)
@given(st.text(alphabet=st.characters(categories=["Ll", "Lu"]), min_size=2, max_size=8), st.integers(4, 9))
def test_any_repeated_word_is_a_loop(word, times):
    assert is_gibberish(" ".join([word] * times))


@settings(deadline=None)
@given(st.text(max_size=200))
def test_range(answer):
    assert 0.0 <= repetition(answer) < 1.0
    assert gibberish_rate([answer]) == float(is_gibberish(answer))
