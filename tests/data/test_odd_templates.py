"""Templates as people have them: named ones, ones that refuse, trim, go on thinking or end an answer with nothing."""

import pytest
from transformers import AutoTokenizer

from asu_lora.data.chat_template import ChatTemplate, end_of_turn_text
from asu_lora.data.encoding import Encoder
from asu_lora.data.examples import question_answer
from asu_lora.data.row_format import BaseLimits
from asu_lora.errors import DataError
from tests.support.real_tokenizers import REAL_SHAPED
from tests.support.tiny_base import TEMPLATE, tiny_tokenizer

QUESTION = [{"role": "user", "content": "Who?"}]
R1 = (  # its generation prompt begins to think; an answer that is given has no thoughts
    "{% for m in messages %}{% if m['role'] == 'user' %}<|im_start|>{{ m['content'] }}{% else %}"
    "<|answer|>{% set content = m['content'] %}{% if '</think>' in content %}"
    "{% set content = content.split('</think>')[-1] %}{% endif %}{{ content }}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|answer|><think>\n{% endif %}"
)


def made(template, *added):
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *added]})
    tokenizer.chat_template = template
    return tokenizer


def row(tokenizer, answer="Anna."):
    [item] = Encoder(tokenizer).encode(question_answer("Who?", answer))
    return item


def text(tokenizer, ids):
    return tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)


def test_a_prompt_that_begins_to_think_is_written_as_the_given_answer_has_it():
    tokenizer = made(R1, "<|answer|>", "<think>")
    whole = tokenizer.apply_chat_template([*QUESTION, {"role": "assistant", "content": "Anna."}], tokenize=False)
    item = row(tokenizer)
    assert text(tokenizer, item.prompt_ids + item.answer_ids) == whole == "<|im_start|>Who?<|answer|>Anna.<|im_end|>"
    assert Encoder(tokenizer).prompt_ids(QUESTION) == list(item.prompt_ids)
    [note] = Encoder(tokenizer).notes()
    assert "'<think>\\n'" in note and "doesn't write before an answer that is given" in note


def test_a_template_that_ignores_the_generation_prompt_still_has_its_header():
    tokenizer = made(TEMPLATE.partition("{% if add")[0])
    item = row(tokenizer)
    assert text(tokenizer, item.prompt_ids) == "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    assert text(tokenizer, item.answer_ids) == "Anna.<|im_end|>"


def test_one_that_always_writes_a_generation_prompt_ends_at_the_answer():
    tokenizer = made(TEMPLATE.partition("{% if add")[0] + "{{ '<|im_start|>assistant\\n' }}")
    item = row(tokenizer)
    assert text(tokenizer, item.answer_ids) == "Anna.<|im_end|>" and item.end == 1


@pytest.mark.parametrize("answer", ["  Anna.\n", "\nAnna. "])
def test_an_answer_is_trimmed_where_the_template_trims_it(answer):
    tokenizer = made(TEMPLATE.replace("m['content']", "m['content'] | trim"))
    assert text(tokenizer, row(tokenizer, answer).answer_ids) == "Anna.<|im_end|>"
    assert text(made(TEMPLATE), row(made(TEMPLATE), answer).answer_ids) == answer + "<|im_end|>"


def test_an_answer_that_quotes_the_end_of_turn_is_whole():
    tokenizer = made(TEMPLATE)
    assert text(tokenizer, row(tokenizer, "It is <|im_end|> there.").answer_ids) == "It is <|im_end|> there.<|im_end|>"


def test_an_end_of_turn_on_a_line_of_its_own_keeps_its_line_break():
    tokenizer = made(TEMPLATE.replace("{{ m['content'] }}", "{{ m['content'] }}\n"))
    assert text(tokenizer, row(tokenizer).answer_ids) == "Anna.\n<|im_end|>"
    assert end_of_turn_text(tokenizer) == "<|im_end|>"


def test_an_answer_ended_by_a_line_break_alone_gets_the_end_of_text_and_says_so():
    """With word openings: an answer after a line break has none."""
    tokenizer = REAL_SHAPED["Zephyr"]()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] | upper }}:\n{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:\n{% endif %}"
    )
    item = row(tokenizer)
    whole = tokenizer("USER:\nWho?\nASSISTANT:\nAnna.</s>", add_special_tokens=False).input_ids
    assert list(item.prompt_ids + item.answer_ids) == whole
    [note] = Encoder(tokenizer).notes()
    assert note == (
        "The base's chat template ends an answer with '\\n' and no special token: rows end with '</s>' instead."
    )


@pytest.mark.parametrize("other", ["tool_use", "rag"])
def test_of_named_templates_it_is_the_default(tmp_path, other):
    tokenizer = made({"default": TEMPLATE, other: "{{ raise_exception('not this one') }}"})
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(again.chat_template, dict)
    assert row(again) == row(made(TEMPLATE))
    assert ChatTemplate(again, date="2024-02-29").prompt(QUESTION) == ChatTemplate(made(TEMPLATE)).prompt(QUESTION)


def test_of_named_templates_without_a_default_the_only_one_is_taken_and_several_refused():
    assert row(made({"chat": TEMPLATE})) == row(made(TEMPLATE))
    with pytest.raises(DataError, match=r"several chat templates \(chat, rag\) and none is called 'default'"):
        row(made({"chat": TEMPLATE, "rag": TEMPLATE}))


def test_a_template_in_a_file_of_its_own_is_the_same(tmp_path):
    made(TEMPLATE).save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").is_file()
    assert row(AutoTokenizer.from_pretrained(tmp_path)) == row(made(TEMPLATE))


def test_a_system_prompt_for_a_template_that_takes_none_is_one_sentence():
    tokenizer = made("{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE)
    assert row(tokenizer) == row(made(TEMPLATE))
    with pytest.raises(DataError, match=r"refuses a conversation of turns system, user \(no system\)"):
        Encoder(tokenizer, system_prompt="Be short.").encode(question_answer("Who?", "Anna."))


def test_a_template_that_takes_no_answer_gets_its_generation_prompt_and_says_so():
    tokenizer = made("{% if messages[-1]['role'] != 'user' %}{{ raise_exception('ask me') }}{% endif %}" + TEMPLATE)
    item = row(tokenizer)
    assert item == row(made(TEMPLATE))
    [note] = Encoder(tokenizer).notes()
    assert "can't be asked what it writes around an answer" in note


def test_padding_and_truncation_sides_change_no_row():
    tokenizer = made(TEMPLATE)
    tokenizer.padding_side, tokenizer.truncation_side, tokenizer.model_max_length = "left", "left", 8
    tokenizer.pad_token = tokenizer.eos_token
    assert row(tokenizer) == row(made(TEMPLATE))


def test_a_token_beyond_the_embedding_is_named():
    tokenizer = made(TEMPLATE)
    beyond = tokenizer.convert_tokens_to_ids("<|im_start|>")
    encoder = Encoder(tokenizer, limits=BaseLimits(vocabulary=beyond))
    with pytest.raises(DataError, match=rf"'<\|im_start\|>' \(id {beyond}\) in forget row 1, and the base's embedding"):
        encoder.encode(question_answer("Who?", "Anna."), what="forget row")
    with pytest.raises(DataError, match="in the question, and"):
        encoder.prompt_ids(QUESTION)
    Encoder(tokenizer, limits=BaseLimits(vocabulary=beyond + 1)).encode(question_answer("Who?", "Anna."))


IN_PARTS = (  # as of vision models: a content is a list, and the letters of a text are no parts
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for part in m['content'] %}{{ part['text'] }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_template_that_takes_contents_in_parts_gets_them_so():
    tokenizer = made(IN_PARTS)
    item = row(tokenizer)
    assert text(tokenizer, item.prompt_ids) == "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    assert text(tokenizer, item.answer_ids) == "Anna.<|im_end|>" and not Encoder(tokenizer).notes()
    assert ChatTemplate(tokenizer).prompt(QUESTION) == ChatTemplate(made(TEMPLATE)).prompt(QUESTION)


def test_a_template_that_writes_nothing_of_the_question_is_refused():
    with pytest.raises(DataError, match="writes nothing of what a user says"):
        row(made("<|im_start|>user\n<|im_end|>\n"))
    with pytest.raises(DataError, match="writes nothing of what a user says"):
        ChatTemplate(made("hello")).prompt(QUESTION)


def test_a_template_that_writes_in_capitals_is_none_of_those():
    assert (
        ChatTemplate(made("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}")).prompt(QUESTION) == "WHO?"
    )
