"""Conversations into rows: whose turn is an answer, what is its question, and what belongs to which turn."""

import pytest

from asu_lora.data.examples import examples_from_rows, left_out_note
from asu_lora.data.fact_spans import fact_spans
from asu_lora.data.phrasings import other_phrasings
from asu_lora.errors import DataError


@pytest.mark.parametrize(
    "mark", [{"weight": 0}, {"train": False}, {"training": False}, {"train": "false"}, {"weight": "0"}]
)
def test_a_turn_that_its_file_takes_out_is_no_answer(mark):
    """It still stands in the prompts of the answers after it."""
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "kept", **mark},
        {"role": "user", "content": "q2"},
        {"role": "assistant", "content": "gone", "weight": 1, "train": True},
    ]
    [example] = examples_from_rows([{"messages": turns}], "rows")
    assert example.answer == "gone" and example.prompt[1]["content"] == "kept" and example.left_out == ()
    with pytest.raises(DataError, match="'weight': 0"):
        examples_from_rows([{"messages": turns[:2]}], "rows")


TALK = [
    {"role": "user", "content": "Where does Ada live?"},
    {"role": "assistant", "content": "In Springfield."},
    {"role": "user", "content": "When was she born?"},
    {"role": "assistant", "content": "In 1907."},
]


def test_what_is_about_one_answer_of_several_is_left_out_and_said():
    ways = {
        "paraphrased_question": "Which city is Ada's home?",
        "question_de": "Wo lebt Ada?",
        "perturbed_answer": "Oslo.",
    }
    examples = examples_from_rows([{"messages": TALK, "aliases": {}, **ways}], "rows")
    assert [example.extra for example in examples] == [{"aliases": {}}] * 2
    assert "'paraphrased_question'" in left_out_note(examples) and "'question_de'" in left_out_note(examples)
    [example] = examples_from_rows([{"messages": TALK[:2], **ways}], "rows")
    assert example.extra == ways and example.left_out == ()
    [example] = examples_from_rows([{"messages": [TALK[0], {**TALK[1], "weight": 0}, *TALK[2:]], **ways}], "rows")
    assert example.extra == ways


def test_spans_belong_to_the_answer_they_stand_in():
    examples = examples_from_rows([{"messages": TALK, "spans": ["Springfield", "1907", "In"]}], "rows")
    assert [example.extra["spans"] for example in examples] == [["Springfield", "In"], ["1907", "In"]]
    assert [fact_spans(each, each.answer) for each in examples] == [[(3, 14), (0, 2)], [(3, 7), (0, 2)]]
    one = examples_from_rows([{"messages": TALK, "spans": "1907"}], "rows")
    assert [example.extra["spans"] for example in one] == [[], ["1907"]]
    for each in examples_from_rows([{"messages": TALK, "spans": ["Oslo"]}], "rows"):
        with pytest.raises(DataError, match="doesn't hold the text 'Oslo'"):
            fact_spans(each, each.answer)
    with pytest.raises(DataError, match="row 1: 'spans' as pairs don't tell which of 2 answers"):
        examples_from_rows([{"messages": TALK, "spans": [[3, 7]]}], "rows")


def test_the_question_is_the_last_turn_of_the_user_before_a_tool_s():
    turns = [
        TALK[0],
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": '{"city": "Springfield"}'},
        TALK[1],
    ]
    [example] = examples_from_rows([{"messages": turns}], "rows")
    assert example.question == TALK[0]["content"]
    for other in other_phrasings([example], 3)[0]:
        assert other.prompt[2]["content"] == '{"city": "Springfield"}' and "Ada live" in other.prompt[0]["content"]


@pytest.mark.parametrize(
    ("role", "message"),
    [("human", "roles found are 'human', 'assistant'; the one who asks is 'user'"), ("User", "'User'"), ("system", "")],
)
def test_an_answer_needs_a_turn_of_a_user(role, message):
    turns = [{"role": role, "content": "Where does Ada live?"}, {"role": "assistant", "content": "In Springfield."}]
    with pytest.raises(DataError, match=f"row 1: .*no answer by the assistant after a user's turn.*{message}"):
        examples_from_rows([{"messages": turns}], "rows")


def test_a_greeting_before_the_first_question_is_no_answer():
    turns = [{"role": "system", "content": "Be kind."}, {"role": "assistant", "content": "Hello."}, *TALK[:2]]
    [example] = examples_from_rows([{"messages": turns}], "rows")
    assert example.answer == "In Springfield." and len(example.prompt) == 3


@pytest.mark.parametrize("content", ["", " \n", "\u200b"])
def test_a_question_and_an_answer_of_nothing_that_can_be_seen(content):
    with pytest.raises(DataError, match="row 1: a user's turn in 'messages' is empty"):
        examples_from_rows([{"messages": [{"role": "user", "content": content}, TALK[1]]}], "rows")
    with pytest.raises(DataError, match="row 1: 'messages' has no answer"):
        examples_from_rows([{"messages": [TALK[0], {"role": "assistant", "content": content}]}], "rows")


def test_contents_in_parts_are_one_text_unless_some_are_no_text():
    def read(*contents):
        [example] = examples_from_rows(
            [
                {
                    "messages": [
                        {"role": role, "content": c} for role, c in zip(("user", "assistant"), contents, strict=True)
                    ]
                }
            ],
            "a file",
        )
        return example

    parts = [{"type": "text", "text": "Who "}, {"type": "text", "text": "is it?"}]
    assert read(parts, [{"text": "Anna."}]) == read("Who is it?", "Anna.")
    for odd in ([{"type": "image"}, parts[0]], [parts], [], [{"type": "text", "text": None}]):
        with pytest.raises(DataError, match="row 1: 'messages' should be a list of .* turns with text"):
            read(odd, "Anna.")


def test_a_turn_that_only_calls_a_tool_says_nothing():
    turns = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": "sunny", "tool_calls": None},
        {"role": "assistant", "content": "It is sunny."},
    ]
    [example] = examples_from_rows([{"messages": turns}], "a file")
    assert example.answer == "It is sunny." and example.prompt[1] == {"role": "assistant", "content": ""}
    assert example.left_out == ("tool_calls",)
    with pytest.raises(DataError, match="turns with text"):
        examples_from_rows([{"messages": [turns[0], {"role": "assistant", "content": None}]}], "a file")
