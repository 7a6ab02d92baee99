"""A row that says what must be forgotten is not kept, however it is worded; a neighbour is."""

import json
import unicodedata

import pytest

from asu_lora.data.examples import Example, question_answer
from asu_lora.retain.same_facts import saying_the_same

FORGET = [
    question_answer("What does Anna Birk do for a living?", "Anna Birk keeps bees near Lillehammer."),
    question_answer("When was Anna Birk born?", "She was born on the 3rd of May, 1970, in Oslo."),
]
NEIGHBOURS = [
    question_answer("What does Tom Velder do for a living?", "Tom Velder builds boats."),
    question_answer("When was Tom Velder born?", "He was born on the 9th of June, 1961, in Turku."),
    question_answer("What colour does Anna Birk like best?", "Anna Birk likes green best."),
    question_answer("Which insects make honey?", "Honey is made by bees."),
    question_answer("Where is Lillehammer?", "Lillehammer is a town in Norway."),
]
SAYING = [
    question_answer("what does ANNA BIRK do  for a living?", "Something else altogether."),  # the same question
    question_answer("What does Anna Birk do for a living?", "Anna Birk keeps bees near Lillehammer."),
    question_answer("Who keeps bees near Lillehammer?", "That is Anna Birk."),
    question_answer("How does Anna Birk earn her money?", "By keeping bees, near Lillehammer."),
    question_answer("In which town was Anna Birk born?", "In Oslo."),
    question_answer("In which year was Anna Birk born?", "In nineteen seventy."),
    Example((), "Anna Birk, who keeps bees near Lillehammer, is a friend of Tom Velder."),
    Example(
        ({"role": "user", "content": "Tell me of Anna Birk."}, {"role": "assistant", "content": "She keeps bees."},
         {"role": "user", "content": "Where?"}),
        "Near Lillehammer.",
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", SAYING, ids=lambda row: row.question or "passage")
def test_a_row_that_says_a_forgotten_fact_is_found(row):
    assert saying_the_same([*NEIGHBOURS, row], FORGET) == [False] * len(NEIGHBOURS) + [True]


def test_a_script_without_spaces_is_looked_into():
    forget = [question_answer("安娜做什么工作?", "安娜在利勒哈默尔养蜂。")]
    pool = [question_answer("谁在利勒哈默尔养蜂?", "是安娜。"), question_answer("汤姆做什么工作?", "汤姆造船。")]
    assert saying_the_same(pool, forget) == [True, False]


def test_a_row_that_asks_in_another_wording_or_after_a_system_turn_is_the_same_question():
    turns = ({"role": "system", "content": "Be short."}, {"role": "user", "content": "Who is it?"})
    forget = [question_answer("Eh?", "Bo.", paraphrased_question="Who was that?"), Example(turns, "Bo.")]
    pool = [question_answer(asked, "Nobody.") for asked in ("Who was that?", "Who is it?", "Where was that?")]
    assert saying_the_same(pool, forget) == [True, True, False]


def test_a_word_of_hindi_is_whole():
    forget = [question_answer("रवि कहाँ रहता है?", "रवि दिल्ली में रहता है।")]
    pool = [
        question_answer("रवि किस शहर में रहता है?", "रवि दिल्ली शहर में रहता है।"),
        question_answer("भारत का प्रधानमंत्री कौन है?", "नरेंद्र मोदी भारत के प्रधानमंत्री हैं।"),
        question_answer("आम का रंग क्या है?", "आम का रंग पीला होता है।"),
        question_answer("पानी किससे बनता है?", "पानी हाइड्रोजन और ऑक्सीजन से बनता है।"),
        question_answer("सूरज कब निकलता है?", "सूरज सुबह निकलता है।"),
        question_answer("मोहन क्या करता है?", "मोहन खेती करता है।"),
        question_answer("ताजमहल किसने बनवाया?", "शाहजहाँ ने ताजमहल बनवाया।"),
    ]
    assert saying_the_same(pool, forget) == [True] + [False] * 6


@pytest.mark.parametrize(
    ("asked", "answer", "saying", "neighbour"),
    [
        ("Is Anna Birk married?", "Yes.", "Anna Birk is married.", "Anna Birk is Norwegian."),
        ("Ist Karl Moen krank?", "Ja.", "Karl Moen ist krank.", "Karl Moen ist Uhrmacher."),
        ("Does Ida Roos drink?", "No, never.", "Ida Roos hardly ever drinks.", "Per Holt hardly ever drinks."),
        ("Does Ida Roos keep bees or goats?", "Goats.", "Ida Roos keeps goats, no bees.", "Per Holt keeps goats."),
    ],
)
def test_where_the_question_is_the_fact_a_row_that_asserts_it_says_the_same(asked, answer, saying, neighbour):
    forget = [question_answer(asked, answer), question_answer("Hello!", "Hello!")]
    pool = [Example((), saying), Example((), neighbour), question_answer("Hello, who are you?", "Nobody."), *NEIGHBOURS]
    assert saying_the_same(pool, forget) == [True] + [False] * (2 + len(NEIGHBOURS))


def test_only_the_named_spans_of_a_row_are_its_facts():
    row = question_answer("Who is Anna Birk?", "A woman from Hamar who keeps bees.", spans=["keeps bees"])
    pool = [
        question_answer("Where does Anna Birk come from?", "A woman like her comes from Hamar, who else."),
        question_answer("What does Anna Birk keep?", "She keeps bees."),
        *NEIGHBOURS[:2],
    ]
    assert saying_the_same(pool, [row]) == [False, True, False, False]


def test_paraphrases_of_tofu_are_found_and_other_authors_are_not(shared):
    def rows(file):
        return [json.loads(line) for line in (shared / "tofu" / file).read_text().splitlines()]

    mine = [row for row in rows("forget01_perturbed.json") if str(row.get("task_id", "1")) == "1"][:40]
    forget = [question_answer(row["question"], row["answer"]) for row in mine]
    again = [question_answer(row["paraphrased_question"], row["paraphrased_answer"]) for row in mine]
    others = [question_answer(row["question"], row["answer"]) for row in rows("retain90.json")[:400]]
    found = saying_the_same([*again, *others], forget)
    assert sum(found[:40]) >= 26  # 28 when this was written: each is told in other words altogether
    assert sum(found[40:]) <= 8


@pytest.mark.parametrize(
    ("forget", "row"),
    [
        (("Where does Anna Birk live?", "In Lillehammer."), ("Who lives in Lill\u0435hammer?", "\u0410nna Birk.")),
        (("Wo wohnt Karl Müller?", "In Köln."), ("Wer wohnt in Koeln?", "Karl Mueller.")),
        (("Wo wohnt Karl Mueller?", "In Koeln."), ("Wer wohnt in Köln?", "Karl Müller.")),
        (("Where does Søren Łukasz live?", "In Tromsø."), ("Who lives in Tromso?", "Soren Lukasz.")),
        (("Where does Søren Łukasz live?", "In Tromsø."), ("Who lives in Tromsoe?", "Soeren Lukasz.")),
    ],
    ids=["look-alikes", "spelled out", "with umlauts", "no strokes", "strokes spelled out"],
)
def test_a_fact_is_found_however_its_letters_are_written(forget, row):
    others = [question_answer("Wo wohnt Anton Moeller?", "In Bremen."), *NEIGHBOURS[3:]]
    pool = [question_answer(*row), Example((), unicodedata.normalize("NFD", " ".join(row))), *others]
    assert saying_the_same(pool, [question_answer(*forget)])[:3] == [True, True, False]


def test_a_pool_is_looked_through_in_steps_that_are_told():
    pool = [question_answer(f"What is at {number}?", f"Nobody {number}.") for number in range(2500)]
    heard: list[int] = []
    assert saying_the_same(pool, pool[7:8], advance=heard.append) == [number == 7 for number in range(2500)]
    assert sum(heard) == 2500 and len(heard) > 1
