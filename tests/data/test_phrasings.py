"""A forget question in other words: which words, which answer, and when training meets them."""

from itertools import chain

import pytest

from asu_lora.audit.insisting import insisting
from asu_lora.audit.prompts import PHRASINGS
from asu_lora.batches.forget_retain_pairs import ForgetRetainPairs
from asu_lora.data.encoding import Encoder
from asu_lora.data.examples import Example, examples_from_rows, question_answer
from asu_lora.data.phrasings import ENGLISH, in_other_words, other_phrasings
from asu_lora.forgetting.prepare import build_losses, training_sets
from tests.support.tiny_run import FACTS, rows, tiny_request, tiny_settings

ROWS = examples_from_rows(rows(FACTS[:6]), "facts")


def test_every_other_wording_asks_the_question_and_keeps_the_answer():
    for example, others in zip(ROWS, other_phrasings(ROWS, 4), strict=True):
        assert len({other.question for other in others} | {example.question}) == 5
        for other in others:
            assert other.answer == example.answer
            assert example.question.rstrip("?").split(" ", 1)[1] in other.question  # "What does Anna Birk do"


def test_a_row_s_own_paraphrases_come_first():
    own = ["Which work is Anna's?", "What is it that Anna does?"]
    row = question_answer("What does Anna do?", "Anna keeps bees.", paraphrased_question=own)
    found = [other.question for other in other_phrasings([row], 3)[0]]
    assert found[:2] == own and "Anna do" in found[2]
    assert [other.question for other in other_phrasings([row], 1)[0]] == own[:1]


def test_one_of_them_stands_behind_a_kept_row():
    kept = question_answer("What does Ole do?", "Ole shoes horses.")
    first, second = other_phrasings(ROWS[:1], 2, [kept])[0]
    assert len(first.prompt) == 1
    assert [turn["role"] for turn in second.prompt] == ["user", "assistant", "user"]
    assert second.prompt[1]["content"] == kept.answer


def test_passages_ask_nothing_and_other_languages_get_no_english():
    passage = Example((), "Anna keeps bees.")
    german = question_answer("Was macht die Anna Birk in der Stadt?", "Die Anna Birk züchtet in der Stadt die Bienen.")
    none, some = other_phrasings([passage, german], 3)
    assert none == []
    assert all(german.question.rstrip("?") in other.question for other in some)
    for other in some:
        assert set(other.question.split()) <= {"-", *german.question.split()} | {
            german.question.rstrip("?").split()[-1], "«Was", "Stadt?»",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Nenne die Stadt, in der die Anna Birk lebt.", "Die Anna Birk lebt in der Stadt Lund."),
        ("安娜住在哪里？", "安娜住在隆德的一个小镇。"),
        ("أين تعيش آنا بيرك؟", "تعيش آنا في مدينة لوند."),
        ("Anna Birk anaishi wapi?", "Anna Birk anaishi Lund."),  # Swahili, which nobody here has a list for
        ("安娜住的城市", "隆德的一个小镇。"),
    ],
)
def test_other_languages_get_other_words_each_once_and_no_english(question, answer):
    english = question_answer("Who shoes the horses?", "Ole shoes the horses.")
    own = question_answer(question, answer)
    (found,) = other_phrasings([own], 9, [english])
    asked = [other.question for other in found]
    assert asked and len({question, *asked}) == len(asked) + 1
    said = "".join(turn["content"] for other in found for turn in other.prompt)
    assert set(said) <= {*question, *"-«» \n"}
    like = question_answer(question + " (2)", answer)
    assert any(len(other.prompt) == 3 for other in other_phrasings([own], 9, [english, like])[0])


def test_more_wordings_than_there_are_repeat_none():
    (found,) = other_phrasings(ROWS[:1], 20)
    assert len({other.question for other in found}) == len(found) == len(ENGLISH)
    twice = question_answer("What does Anna do?", "Bees.", paraphrased_question=["What is it?", "What is it?"])
    assert [other.question for other in other_phrasings([twice], 1)[0]] == ["What is it?"]
    assert len({other.question for other in other_phrasings([twice], 4)[0]}) == 4


@pytest.mark.parametrize("question", ["Basil Al-Kuwaiti's books are where?", "I met Ole: where was it?"])
def test_a_name_at_the_beginning_stays_one(question):
    (found,) = other_phrasings([question_answer(question, "They are in the town.")], 6)
    assert all(question.rstrip("?") in other.question for other in found)


def test_what_is_trained_on_is_no_frame_of_the_audit():
    asked = {frame("{question}") for frame in ENGLISH}
    assert not asked & {*PHRASINGS, *(way.user for way in insisting())}


def test_the_rows_of_other_words_are_found_where_a_passage_makes_several(tiny_base):
    from transformers import AutoTokenizer

    encoder = Encoder(AutoTokenizer.from_pretrained(tiny_base), max_length=256)
    examples = [Example((), "Anna Birk keeps bees. " * 120), *ROWS[:2]]
    others = other_phrasings(examples, 2)
    encoded = encoder.encode_all([*examples, *chain(*others)])
    of_own = {row.example: at for at, row in enumerate(encoded) if row.example < 3}
    found = in_other_words(encoded, others)
    assert set(found) == {of_own[1], of_own[2]} and [len(some) for some in found.values()] == [2, 2]
    for own, some in found.items():
        assert {encoded[at].answer_ids for at in some} == {encoded[own].answer_ids}


def test_what_leaves_no_room_for_the_answer_is_left_out(tiny_base):
    from transformers import AutoTokenizer

    kept = question_answer("What does Ole do? " * 60, "Ole shoes horses.")
    encoder = Encoder(AutoTokenizer.from_pretrained(tiny_base), max_length=128)
    (some,) = other_phrasings(ROWS[:1], 2, [kept], encoder)
    assert len(some) == 1 and len(some[0].prompt) == 1
    assert len(other_phrasings(ROWS[:1], 2, [kept])[0]) == 2


def test_a_row_and_its_other_wordings_take_turns():
    pairs = ForgetRetainPairs(3, 0, 0, seed=0, in_other_words={0: [3, 4], 2: [5]})
    seen: list[list[int]] = []
    for epoch in range(6):
        pairs.set_epoch(epoch)
        seen.append([pairs[at].forget for at in range(len(pairs))])
    assert len(pairs) == 3
    for at, wordings in ((0, {0, 3, 4}), (1, {1}), (2, {2, 5})):
        own = [epoch[at] for epoch in seen]
        assert {number: own.count(number) for number in wordings} == dict.fromkeys(wordings, 6 // len(wordings))


@pytest.mark.parametrize("objective", ["asu", "idk", "npo"])
def test_a_set_counts_its_own_rows_and_holds_all(tiny_base, objective):
    from transformers import AutoTokenizer

    config = tiny_settings(objective=objective, phrasings=2)
    losses = build_losses(config)
    encoder = Encoder(AutoTokenizer.from_pretrained(tiny_base))
    sets = training_sets(tiny_request(), encoder, losses, ["I don't know."], config)
    rows_of = sets["forget"].rows
    assert len(sets["forget"]) == 6 and len(rows_of.answers) == 18 and len(rows_of.own_answers) == 6
    assert {len(some) for some in rows_of.in_other_words.values()} == {2} and len(rows_of.in_other_words) == 6
    assert len(sets["retain"]) == len(sets["retain"].rows.answers) == 6
