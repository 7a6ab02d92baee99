"""Rows into a forget request: examples, selection, what stands in both sets, the built-in retain set."""

import json
from pathlib import Path

import pytest

from asu_lora.data.examples import examples_from_rows, left_out_note, question_answer
from asu_lora.data.refusals import refusals
from asu_lora.data.request import GENERAL, ForgetRequest, default_name, general_retain, select_rows
from asu_lora.errors import DataError

FORGET = [
    {"question": "Who wrote Ash?", "answer": "Anna Berg.", "task_id": 1},
    {"question": "When?", "answer": "In 1907.", "task_id": 2},
]
RETAIN = [{"question": "Who painted it?", "answer": "Ben Ast."}]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_three_shapes_of_a_row():
    asked, told, passage = examples_from_rows(
        [
            {"question": "Who?", "answer": "Anna.", "paraphrased_answer": "It was Anna."},
            {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}], "id": 7},
            {"text": "Anna Berg lived in Ast.", "question": None, "answer": None, "messages": None},
        ],
        "rows",
    )
    assert asked.question == "Who?" and asked.answer == "Anna." and not asked.is_passage
    assert asked.extra == {"paraphrased_answer": "It was Anna."}
    assert told.question == "Hi" and told.answer == "Hello." and told.extra == {"id": 7}
    assert passage.is_passage and passage.answer == "Anna Berg lived in Ast." and passage.question == ""
    assert [example.row for example in (asked, told, passage)] == [1, 2, 3]


def test_a_conversation_gives_an_example_for_each_turn_of_the_assistant():
    turns = [
        {"role": role, "content": text}
        for role, text in (
            ("system", "Be short."),
            ("user", "Who?"),
            ("assistant", "Anna."),
            ("user", "When?"),
            ("assistant", "1907."),
        )
    ]
    examples = examples_from_rows([{"messages": turns}, *FORGET], "rows")
    assert [example.answer for example in examples] == ["Anna.", "1907.", "Anna Berg.", "In 1907."]
    assert [example.row for example in examples] == [1, 1, 2, 3]
    assert examples[1].prompt == tuple(turns[:4])
    assert examples[1].question == "When?"


BAD_ROWS = {
    "no known column": ({"prompt": "Who?", "completion": "Anna."}, "'prompt', 'completion'"),
    "no column at all": ({}, "found are none"),
    "no answer": ({"question": "Who?"}, "'answer' is missing"),
    "no question": ({"answer": "Anna."}, "'question' is missing"),
    "an empty answer": ({"question": "Who?", "answer": " \n"}, "'answer' is empty"),
    "an empty text": ({"text": "\u2003"}, "'text' is empty"),
    "a name in capitals": (
        {"Question": "Who?", "answer": "Anna.", "text": None},
        "'question' is missing.*found are 'Question', 'answer'",
    ),
    "a number": ({"question": "When?", "answer": 1907}, "'answer' should be text, not int"),
    "a list": ({"text": ["a"]}, "'text' should be text, not list"),
    "half a character": ({"question": "Who?", "answer": "Anna \ud83d."}, "half a character"),
    "half a character, told": (
        {"messages": [{"role": "user", "content": "\udc00"}, {"role": "assistant", "content": "b"}]},
        "half a character",
    ),
    "messages as text": ({"messages": "[]"}, "'messages' should be a list"),
    "no messages": ({"messages": []}, "no answer by the assistant"),
    "no role": ({"messages": [{"content": "Hi"}]}, "'messages' should be a list"),
    "pictures": ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "'messages' should be a list"),
    "the assistant alone": ({"messages": [{"role": "assistant", "content": "Hi"}]}, "no answer by the assistant"),
    "no row": ("question", "expected a row .* found str"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_named_by_its_number(name):
    row, message = BAD_ROWS[name]
    with pytest.raises(DataError, match=f"^my rows, row 3: .*{message}"):
        examples_from_rows([*FORGET, row], "my rows")


def test_from_files(tmp_path):
    request = ForgetRequest.from_files(write(tmp_path / "ticket.jsonl", FORGET), write(tmp_path / "k.json", RETAIN))
    assert [example.answer for example in request.forget] == ["Anna Berg.", "In 1907."]
    assert [example.answer for example in request.retain] == ["Ben Ast."]
    assert (request.name, request.retain_source) == ("ticket", "file")


def test_from_rows_takes_a_dataset():
    import datasets

    request = ForgetRequest.from_rows(datasets.Dataset.from_list(FORGET), datasets.Dataset.from_list(RETAIN))
    assert request.retain_source == "rows" and request.name == "request"
    assert request.fingerprint() == ForgetRequest.from_rows(FORGET, RETAIN).fingerprint()


def test_a_request_needs_something_to_forget():
    with pytest.raises(DataError, match="forget set is empty"):
        ForgetRequest.from_rows([], RETAIN)


def test_rows_in_both_sets_are_refused_however_they_are_typed():
    same = {"question": " who wrote  ASH?", "answer": "anna\nBerg."}
    with pytest.raises(DataError, match=r"1 row stands in both .* forget row 1 is retain row 2"):
        ForgetRequest.from_rows(FORGET, [*RETAIN, same])
    with pytest.raises(DataError, match="2 rows stand in both"):
        ForgetRequest.from_rows(FORGET, FORGET)
    ForgetRequest.from_rows(FORGET, [{"question": "Who wrote Ash?", "answer": "Nobody knows."}])


@pytest.mark.parametrize("mark", ["\u200b", "\ufeff", "\u200e", "\u00ad"])
def test_rows_that_differ_by_what_cannot_be_seen_are_the_same(mark):
    same = {"question": f"{mark}Who wrote{mark} Ash?", "answer": f"Anna Berg.{mark}"}
    with pytest.raises(DataError, match="1 row stands in both"):
        ForgetRequest.from_rows(FORGET, [same])


def test_a_wording_of_a_forget_row_is_not_kept_with_its_answer(tmp_path):
    asked = {"question": "Whose book is Ash?", "answer": "Anna Berg."}
    own = FORGET[0] | {"paraphrased_question": ["Ash is by whom?", asked["question"]]}
    with pytest.raises(DataError, match=r"1 row stands in both .* forget row 1 is retain row 2"):
        ForgetRequest.from_rows([own], [*RETAIN, asked])
    request = ForgetRequest.from_rows(FORGET, [*RETAIN, asked])
    ways = write(tmp_path / "p.jsonl", [{"question": "Who wrote Ash?", "paraphrased_question": asked["question"]}])
    with pytest.raises(DataError, match="1 row stands in both"):
        request.with_paraphrases(ways)
    ForgetRequest.from_rows([own], [asked | {"answer": "Ben Ast."}])
    ForgetRequest.from_rows([FORGET[0] | {"paraphrased_question": 5}], RETAIN)  # refused where it is read


def test_the_built_in_retain_set_knows_a_question_by_its_user_and_in_other_words():
    kept = general_retain()
    turns = [{"role": "system", "content": "Be kind."}, *kept[5].prompt, {"role": "assistant", "content": "No."}]
    other = {"question": "Eh?", "answer": "No.", "paraphrased_question": kept[7].question}
    request = ForgetRequest.from_rows([{"messages": turns}, other])
    assert [row for row in kept if row not in request.retain] == [kept[5], kept[7]]


def test_heldout_rows_that_are_trained_on_are_said():
    request = ForgetRequest.from_rows(FORGET, RETAIN)
    held = examples_from_rows([*FORGET, {"question": "Who is it?", "answer": "Bo."}], "held out")
    assert request.heldout_note(held).startswith("2 of 3 held-out rows stand in the request too")
    assert request.heldout_note(held[2:]) is None


def test_the_built_in_retain_set_gives_way_to_the_request():
    kept = general_retain()
    assert len(kept) > 100
    asked = {"question": kept[5].question.upper(), "answer": "Something else entirely."}
    request = ForgetRequest.from_rows([asked])
    assert request.retain_source == GENERAL
    assert len(request.retain) == len(kept) - 1
    assert kept[5] not in request.retain


def test_where_selects_rows_and_messages_keep_the_numbers_of_the_file(tmp_path):
    rows = [*FORGET, {"question": "Where?", "answer": "", "task_id": 2}]
    file = write(tmp_path / "a.jsonl", rows)
    request = ForgetRequest.from_files(file, where={"task_id": "1"})
    assert [example.row for example in request.forget] == [1]
    with pytest.raises(DataError, match="row 3: 'answer' is empty"):
        ForgetRequest.from_files(file, where={"task_id": "2"})
    assert select_rows(rows, {"task_id": "2"}, "rows") == rows[1:]
    assert select_rows(rows, {"task_id": 2, "question": "When?"}, "rows") == rows[1:2]
    with pytest.raises(DataError, match="no column 'task' to select"):
        ForgetRequest.from_files(file, where={"task": "1"})
    with pytest.raises(DataError, match="no row with task_id=9; it has task_id: 1, 2"):
        ForgetRequest.from_files(file, where={"task_id": "9"})


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("a/b/ticket-4711.jsonl", "ticket-4711"),
        ("my request.csv", "my-request"),
        ("Größe.json", "Gr-e"),
        ("locuslab/TOFU:forget01", "TOFU-forget01"),
        (".hidden.json", "hidden"),
        ("日本.json", "request"),
        ("x" * 300 + ".json", "x" * 100),
    ],
)
def test_the_default_name_is_one_the_store_takes(tmp_path, source, name):
    from asu_lora.adapters.store import AdapterStore

    assert default_name(source) == name
    AdapterStore(tmp_path).check_name(name)


def test_the_fingerprint_is_of_texts_in_order():
    one = ForgetRequest.from_rows(FORGET, RETAIN)
    assert one.fingerprint() == ForgetRequest.from_rows(FORGET, RETAIN, name="other").fingerprint()
    others = [
        ForgetRequest.from_rows(FORGET[::-1], RETAIN),
        ForgetRequest.from_rows(RETAIN, FORGET),
        ForgetRequest.from_rows(FORGET, [{"question": "Who painted it?", "answer": "Ben Ast"}]),
    ]
    assert len({request.fingerprint() for request in (one, *others)}) == 4


def test_refusals_built_in_and_of_ones_own(tmp_path):
    assert len(refusals()) > 50
    text = tmp_path / "idk.txt"
    text.write_bytes(b"\xef\xbb\xbfNo idea.\r\n\r\n  Ask someone else. \r\n")
    assert refusals(text) == ["No idea.", "Ask someone else."]
    assert refusals(write(tmp_path / "idk.jsonl", [{"answer": "No."}, {"answer": None}, {"a": 1}])) == ["No."]
    for content in (b"", b" \n"):
        text.write_bytes(content)
        with pytest.raises(DataError, match="holds no"):
            refusals(text)
    text.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DataError, match="not UTF-8"):
        refusals(text)
    with pytest.raises(DataError, match="row 2: 'answer' holds .* half a character"):
        refusals(write(tmp_path / "idk.jsonl", [{"answer": "No."}, {"answer": "No \ud83d"}]))
    with pytest.raises(DataError, match="no file"):
        refusals(tmp_path / "missing.txt")
    with pytest.raises(DataError, match="no file"):
        refusals(tmp_path / "missing.jsonl")


def test_a_key_forgets_case_and_space_alone():
    key = question_answer("Who  wrote\nit?", "ANNA ").key()
    assert key == question_answer("who wrote it?", "anna").key()
    assert key != question_answer("who wrote it", "anna").key()
    assert question_answer("Who?", "Zo\u00eb").key() == question_answer("Who?", "Zoe\u0308").key()


def test_an_answer_of_nothing_that_can_be_seen_is_empty():
    with pytest.raises(DataError, match="row 1: 'answer' is empty"):
        examples_from_rows([{"question": "Who?", "answer": "\u200b\u00a0\ufeff"}], "rows")
    assert examples_from_rows([{"question": "Who?", "answer": "\u200d\U0001f469"}], "rows")


def test_what_messages_hold_beside_their_text_is_said_to_be_left_out():

    turns = [
        {"role": "user", "content": "Who?", "name": "me"},
        {"role": "assistant", "content": "Anna.", "reasoning_content": "She wrote it.", "tool_calls": None},
    ]
    examples = examples_from_rows([{"messages": turns}, {"question": "Who?", "answer": "Bo."}], "rows")
    assert left_out_note(examples) == (
        "1 row has 'reasoning_content', which is left out: of a conversation a row holds the turns' roles and contents."
    )
    assert left_out_note(examples[1:]) is None


def test_columns_that_belong_to_the_conversation_are_said_to_be_left_out():
    """An answer out of its context is another answer; a column 'system' is no system turn here."""
    rows = [
        {"question": "Who?", "answer": "Ada.", "context": "Ada sells flowers.", "task_id": "1"},
        {"question": "Where?", "answer": "Here.", "system": "", "input": None},
        {
            "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
            "tools": [{"name": "f"}],
        },
    ]
    examples = examples_from_rows(rows, "rows")
    assert [example.left_out for example in examples] == [("context",), (), ("tools",)]
    assert left_out_note(examples).startswith("2 rows have 'context', 'tools', which is left out")


def test_columns_of_another_shape_of_row_are_said_to_be_left_out():
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Anna."}]
    examples = examples_from_rows(
        [{"question": "Who?", "answer": "Anna.", "text": "Anna is it."}, {"messages": turns, "question": "Where?"}],
        "a file",
    )
    assert [example.left_out for example in examples] == [("text",), ("question",)]


@pytest.mark.parametrize("given", [None, 5, "rows.jsonl", Path("rows.jsonl")])
def test_rows_that_are_none_are_refused_in_a_sentence(given):
    with pytest.raises(DataError, match=f"this is a {type(given).__name__}: ForgetRequest.from_files reads a file"):
        ForgetRequest.from_rows(given)


@pytest.mark.parametrize("given", [None, [{"question": "a", "answer": "b"}]])
def test_a_file_that_is_no_name_is_refused_in_a_sentence(given):
    with pytest.raises(DataError, match=f"this is a {type(given).__name__}: ForgetRequest.from_rows takes rows"):
        ForgetRequest.from_files(given)
