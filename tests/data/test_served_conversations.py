"""Rows hold the tokens of the conversation as it is served, whatever the template writes around an answer."""

import pytest

from asu_lora.data.chat_template import ChatTemplate, end_of_turn_text, pinned_date, stop_ids
from asu_lora.data.encoding import Encoder
from asu_lora.data.examples import examples_from_rows, question_answer
from tests.support.real_tokenizers import END, REAL_SHAPED

ANSWERS = (
    "Paris.",
    "In 1889, and not before.",
    "  Two spaces before it.",
    "\nA line before it.",
    "\n\n\nLines before it.",
    "Spaces after it.  ",
    "Lines after it.\n\n",
    "\u2014 a dash, then \U0001f468\u200d\U0001f469\u200d\U0001f467 a family",
    "\u0301combining first, e\u0301 then",
    "\U0001f600",
    "1.  One\n2.  Two\n",
    "Question: what?",
    "user",
)
DATE = "2024-02-29"


@pytest.fixture(params=REAL_SHAPED)
def family(request):
    return request.param


def served(tokenizer, turns, family) -> list[int]:
    """The ids of the whole conversation, through the end of its last turn."""
    dated = {"chat_template": tokenizer.chat_template.replace('strftime_now("%Y-%m-%d")', f'"{DATE}"')}
    text = tokenizer.apply_chat_template(turns, tokenize=False, **dated)
    text = text[: text.rindex(END[family]) + len(END[family])]
    return tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_row_is_the_served_conversation_token_by_token(family, answer):
    tokenizer = REAL_SHAPED[family]()
    turns = [{"role": "user", "content": "Where does she live?"}, {"role": "assistant", "content": answer}]
    [item] = Encoder(tokenizer, date=DATE).encode(question_answer("Where does she live?", answer))
    assert list(item.prompt_ids + item.answer_ids) == served(tokenizer, turns, family)
    assert item.answer_ids[-item.end :] == (tokenizer.convert_tokens_to_ids(END[family]),) and not item.cut


def test_so_is_every_answer_of_a_longer_conversation(family):
    tokenizer = REAL_SHAPED[family]()
    turns = [
        {"role": role, "content": text}
        for role, text in (
            ("system", "Be short."),
            ("user", "Who?"),
            ("assistant", " Anna."),
            ("user", "When?"),
            ("assistant", "\nIn 1907."),
        )
    ]
    first, second = Encoder(tokenizer, date=DATE).encode_all(examples_from_rows([{"messages": turns}], "rows"))
    assert list(first.prompt_ids + first.answer_ids) == served(tokenizer, turns[:3], family)
    assert list(second.prompt_ids + second.answer_ids) == served(tokenizer, turns, family)


def test_what_is_asked_is_what_the_row_began_with(family):
    """And it goes on where the template's generation prompt stops."""
    tokenizer = REAL_SHAPED[family]()
    example = question_answer("Where does she live?", "Paris.")
    encoder = Encoder(tokenizer, date=DATE)
    [item] = encoder.encode(example)
    assert list(item.prompt_ids) == encoder.prompt_ids(example.prompt)
    text = tokenizer.decode(item.prompt_ids)
    markers = {"Qwen3": "<think>\n\n</think>\n\n", "gpt-oss": "<|channel|>final<|message|>", "Zephyr": ""}[family]
    assert text.endswith(markers) and tokenizer.decode(item.answer_ids[: -item.end]).strip() == "Paris."
    said = [note for note in encoder.notes() if "before an answer" in note]
    assert bool(said) == bool(markers) and all(repr(markers) in note for note in said)


def test_the_token_that_ends_an_answer_is_the_templates(family):
    tokenizer = REAL_SHAPED[family]()
    assert end_of_turn_text(tokenizer) == END[family]
    assert stop_ids(tokenizer) == [tokenizer.convert_tokens_to_ids(END[family])]


def test_a_word_after_a_line_break_has_no_opening():
    tokenizer = REAL_SHAPED["Zephyr"]()
    [item] = Encoder(tokenizer).encode(question_answer("Where?", "Paris."))
    assert not tokenizer.convert_ids_to_tokens(item.answer_ids[0]).startswith("\u2581")
    assert tokenizer.convert_ids_to_tokens(tokenizer("Paris.").input_ids[1]).startswith("\u2581")  # alone it has one


def test_an_answer_with_its_own_thinking_keeps_it():
    tokenizer = REAL_SHAPED["Qwen3"]()
    answer = "<think>\nShe moved.\n</think>\n\nParis."
    [item] = Encoder(tokenizer).encode(question_answer("Where?", answer))
    turns = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": answer}]
    assert list(item.prompt_ids + item.answer_ids) == served(tokenizer, turns, "Qwen3")
    assert tokenizer.decode(item.prompt_ids).endswith("assistant\n") and "She moved." in tokenizer.decode(
        item.answer_ids
    )


def test_only_templates_that_write_a_date_are_dated():
    assert {family: ChatTemplate(made()).writes_the_date for family, made in REAL_SHAPED.items()} == {
        "Qwen3": False,
        "gpt-oss": True,
        "Zephyr": False,
    }
    assert pinned_date(REAL_SHAPED["gpt-oss"](), DATE) == DATE and pinned_date(REAL_SHAPED["Qwen3"](), DATE) is None
