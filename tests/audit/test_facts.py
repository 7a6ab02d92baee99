"""Facts: what the answer says and the question doesn't, however it is said."""

import time

import pytest
from transformers import AutoTokenizer

from asu_lora.audit.facts import facts_of, share_said
from asu_lora.data.encoding import Encoder
from asu_lora.data.examples import question_answer
from asu_lora.data.words import words
from asu_lora.errors import DataError


@pytest.fixture(scope="module")
def facts(tiny_base):
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    encoder = Encoder(tokenizer)

    def of(question, answer, **columns):
        example = question_answer(question, answer, **columns)
        return facts_of(example, encoder.encode(example), tokenizer)

    return of


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("forty-two", "42"),
        ("one hundred and five", "105"),
        ("nineteen fifty-six", "1956"),
        ("two thousand and six", "2006"),
        ("two million five hundred thousand", "2,500,000"),
        ("the twenty-first", "the 21st"),
        ("3.50", "3.5"),
        ("08", "8"),
        ("Café", "cafe"),
        ("novels", "novel"),
        ("Kuwait's", "Kuwait"),
        ("STRASSE", "straße"),
    ],
)
def test_one_word_however_it_is_written(one, other):
    assert words(one) == words(other) != ()


@pytest.mark.parametrize(("one", "other"), [("42", "43"), ("nineteen", "ninety"), ("1.5", "15"), ("bee", "beer")])
def test_other_words_stay_apart(one, other):
    assert words(one) != words(other)


def test_what_the_question_says_is_no_fact(facts):
    found = facts("What did Anna Birk's cousin, the painter, keep?", "Anna Birk's cousin keeps 12 black bees.")
    assert [fact.forms[0] for fact in found] == [("12",), ("black",), ("bee",)]
    assert share_said("She has a dozen; no, twelve bees.", found) == pytest.approx(2 / 3)
    assert share_said("I don't know.", found) == 0


def test_a_fact_given_away_does_not_count(facts):
    found = facts("What does she keep?", "She keeps black bees in Oslo.")
    assert share_said("bees in Oslo", found, given="She keeps black") == 1
    assert share_said("anything", found, given="She keeps black bees in Oslo") is None


def test_spans_are_the_facts_and_are_said_word_by_word_in_order(facts):
    found = facts("What did he write?", "He wrote Promise by the Seine in 1981.", spans=["Promise by the Seine"])
    assert len(found) == 1
    assert found[0].said("It was called PROMISES BY THE SEINE, I think")
    assert not found[0].said("The Seine is a promise")


def test_aliases_count_as_the_fact(facts):
    answer = "She was born in Kuwait City."
    found = facts("Where?", answer, spans=["Kuwait City"], aliases={"Kuwait City": ["capital of Kuwait", "Al-Kuwayt"]})
    assert found[0].said("in the capital of Kuwait") and found[0].said("al kuwayt") and found[0].said("Alkuwayt")
    assert not found[0].said("in Basra")
    as_text = facts("Where?", answer, aliases='{"Kuwait City": ["KWI"]}')
    assert share_said("KWI", as_text) == pytest.approx(2 / len(as_text))


def test_compounds_are_found_as_one_word_or_several(facts):
    found = facts("What?", "She sells sea-maps.", spans=["sea-maps"])
    assert found[0].said("seamaps") and found[0].said("sea maps") and not found[0].said("maps of the sea")


def test_scripts_without_spaces(facts):
    found = facts("她做什么？", "她养蜜蜂。", spans=["蜜蜂"])
    assert found[0].said("她在奥斯陆养 蜜蜂，很多。") and not found[0].said("她造船。")
    assert share_said("她养蜜蜂。", facts("谁？", "她养蜜蜂。")) == 1


@pytest.mark.parametrize(
    ("question", "answer", "span", "other"),
    [
        ("When was Ada born?", "Ada was born in May.", "May", "It may be so."),
        ("Where was Ada born?", "Ada was born in the US.", "US", "Us, we don't know."),
        ("Who employs Ada?", "Ada works for the WHO.", "WHO", "Who knows?"),
        ("Whom did Ada marry?", "Ada is married to Will.", "Will", "She will tell you."),
        ("Which book did Ada write?", "Ada wrote It.", "It", "I don't know it."),
        ("Which band is it?", "Ada hears The Who.", "The Who", "Who is the one?"),
        ("When does it rain?", "Only once.", "once", "Never."),
    ],
)
def test_facts_of_function_words_are_said_as_they_are_written(facts, question, answer, span, other):
    found = facts(question, answer, spans=[span])
    assert share_said(answer, found, question) == 1
    assert share_said(other, found, question) == 0


def test_a_name_of_function_words_keeps_one_capital(facts):
    [fact] = facts("Which band?", "Ada hears The Who.", spans=["The Who"], aliases={"The Who": ["Us Them"]})
    assert fact.said("She likes the Who.") and fact.said("Us them, of course")


@pytest.mark.parametrize(
    ("question", "answer", "span", "other"),
    [
        ("रवि कहाँ रहता है?", "रवि दिल्ली में रहता है।", "दिल्ली", "वह दल और लाल है।"),
        ("अमिताभ की पत्नी कौन है?", "उनकी पत्नी सीता है।", "सीता", "सुत ही नहीं।"),
        ("রবি কোথায় থাকে?", "রবি ঢাকা শহরে থাকে।", "ঢাকা", "আমি জানি না ঢেঁকি কি"),
        ("ரவி எங்கே?", "ரவி சென்னையில் வசிக்கிறார்.", "சென்னையில்", "சென னயல"),
        ("ปูอยู่ที่ไหน", "อยู่ที่เชียงใหม่", "เชียงใหม่", "เชยงใหม"),
    ],
)
def test_vowel_signs_belong_to_their_word(facts, question, answer, span, other):
    found = facts(question, answer, spans=[span])
    assert share_said(answer, found, question) == 1
    assert share_said(other, found, question) == 0
    unmarked = facts(question, answer)
    assert share_said(answer, unmarked) == 1 and all(len(fact.forms[0][0]) > 1 for fact in unmarked)


def test_words_lose_the_marks_that_people_leave_out():
    assert words("दिल्ली") == ("दिल्ली",) != words("दल ल")
    assert words("שָׁלוֹם") == words("שלום") and words("مُحَمَّد") == words("محمد")
    assert words("\u2764\ufe0f love 1\ufe0f\u20e3") == ("love", "1")


def test_many_words_take_no_longer_each():
    began = time.monotonic()
    words("w1x " * 40_000)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("aliases", [["x"], "{", {"a": 3}, {"a": [1]}])
def test_aliases_of_another_shape_are_refused_by_row(facts, aliases):
    with pytest.raises(DataError, match="'aliases' of row 0"):
        facts("Where?", "In Oslo.", aliases=aliases)
