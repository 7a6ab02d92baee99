"""Examples into tokens, with the chat templates of several families on one tiny tokenizer."""

import pytest

from asu_lora.data.chat_template import end_of_turn_text, special_ids, stop_ids
from asu_lora.data.encoding import PLAIN_PROMPT, Encoder
from asu_lora.data.examples import Example, examples_from_rows, question_answer
from asu_lora.errors import DataError
from tests.support.template_families import BYTES, FAMILIES, adding_bos, tokenizer_of
from tests.support.tiny_base import tiny_tokenizer


def said(tokenizer, ids) -> str:
    return tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)


def test_prompt_and_answer_stand_as_the_template_writes_them(family):
    tokenizer = tokenizer_of(family)
    [item] = Encoder(tokenizer).encode(question_answer("Who wrote Ash?", "Anna Berg."))
    assert said(tokenizer, item.prompt_ids) == family.asked.replace("{Q}", "Who wrote Ash?")
    assert said(tokenizer, item.answer_ids) == family.answered.replace("A", "Anna Berg.", 1)
    assert not item.cut


def test_an_answer_ends_with_one_end_of_turn_token(family):
    tokenizer = tokenizer_of(family)
    assert end_of_turn_text(tokenizer) == family.end
    end = tokenizer.convert_tokens_to_ids(family.end)
    assert stop_ids(tokenizer) == sorted({end, tokenizer.eos_token_id})
    assert set(stop_ids(tokenizer)) <= set(special_ids(tokenizer))
    [item] = Encoder(tokenizer).encode(question_answer("Who?", "Anna."))
    assert item.answer_ids[-1] == end and item.answer_ids.count(end) == 1


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.template and name != "Alpaca"])
def test_together_they_are_the_beginning_of_the_whole_conversation(name):
    tokenizer = tokenizer_of(FAMILIES[name])
    turns = [
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "Anna."},
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": "In 1907."},
    ]
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    last = Encoder(tokenizer).encode_all(examples_from_rows([{"messages": turns}], "rows"))[-1]
    assert whole.startswith(said(tokenizer, last.prompt_ids + last.answer_ids))


def test_a_conversation_gives_one_item_a_turn(family):
    tokenizer = tokenizer_of(family)
    turns = [
        {"role": role, "content": text}
        for role, text in (("user", "Who?"), ("assistant", "Anna."), ("user", "When?"), ("assistant", "In 1907."))
    ]
    first, second = Encoder(tokenizer).encode_all(examples_from_rows([{"messages": turns}], "rows"))
    assert said(tokenizer, first.answer_ids).strip() == "Anna." + family.end
    assert said(tokenizer, second.answer_ids).strip() == "In 1907." + family.end
    text = said(tokenizer, second.prompt_ids)
    assert text.index("Who?") < text.index("Anna.") < text.index("When?")
    assert (first.example, second.example) == (0, 1)


def test_a_template_without_system_turns_says_so(family):
    encoder = Encoder(tokenizer_of(family))
    turns = ({"role": "system", "content": "Be short."}, {"role": "user", "content": "Who?"})
    if family.system:
        assert "Be short." in encoder.prompt_text(turns)
    else:
        with pytest.raises(DataError, match=r"refuses a conversation of turns system, user \(.+\)") as caught:
            encoder.encode(Example(turns, "Anna."))
        assert "\n" not in str(caught.value)


def test_a_broken_template_is_refused_in_one_line():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}"
    with pytest.raises(DataError, match="chat template refuses") as caught:
        Encoder(tokenizer).encode(question_answer("Who?", "Anna."))
    assert "\n" not in str(caught.value)


def test_braces_and_markers_in_a_question_are_text():
    tokenizer = tokenizer_of(FAMILIES["no template"])
    question = "What is {question} in {{ messages }}?"
    assert Encoder(tokenizer).prompt_text(question_answer(question, "x").prompt) == (
        PLAIN_PROMPT.replace("{question}", question)
    )


def test_a_bos_stands_before_plain_texts_only_where_the_tokenizer_itself_puts_one():
    question, passage = question_answer("Who?", "Anna."), Example((), "A passage.")
    without = tokenizer_of(FAMILIES["no template"])
    for tokenizer in (without, adding_bos(tokenizer_of(FAMILIES["no template"]))):
        [asked], [read] = Encoder(tokenizer).encode(question), Encoder(tokenizer).encode(passage)
        own = tokenizer("A passage.").input_ids
        assert list(read.prompt_ids + read.answer_ids) == own
        assert list(asked.prompt_ids) == tokenizer("Question: Who?\nAnswer:").input_ids
        assert (own[0] == tokenizer.bos_token_id) == (tokenizer is not without)


def test_sentencepiece_gets_one_space_before_an_answer():
    """Llama 2's and Mistral's tokenizers put a space before any text; a lone " Anna" would get two."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    letters = ["<unk>", "<s>", "</s>", *"▁:?\n", *map(chr, range(65, 91)), *map(chr, range(97, 123))]
    core = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[], unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", bos_token="<s>", pad_token="<unk>")
    [item] = Encoder(tokenizer).encode(question_answer("Who?", "Anna"))
    assert tokenizer.convert_ids_to_tokens(list(item.answer_ids)) == [*"▁Anna", "</s>"]


def test_an_answer_that_tokenises_to_nothing_is_refused_by_its_row():
    from tokenizers import normalizers

    tokenizer = tiny_tokenizer()
    tokenizer._tokenizer.normalizer = normalizers.Replace("\u00b7", "")
    rows = [{"question": "Who?", "answer": "Anna"}, {"question": "Who?", "answer": "\u00b7"}]
    examples = examples_from_rows(rows, "f")
    with pytest.raises(DataError, match="answer of forget row 2 tokenises to nothing"):
        Encoder(tokenizer).encode_all(examples, "forget row")
    with pytest.raises(DataError, match="text of retain row 1 tokenises to nothing"):
        Encoder(tokenizer).encode_all(examples_from_rows([{"text": "\u00b7"}], "f"), "retain row")


def test_examples_know_their_place():
    items = Encoder(BYTES, 12).encode_all([Example((), "A passage of some length."), Example((), "Short.")])
    assert [item.example for item in items] == [0, 0, 0, 1]


def test_a_tokenizer_without_an_end_of_text():
    tokenizer = tokenizer_of(FAMILIES["no template"])
    tokenizer.eos_token = None
    [item] = Encoder(tokenizer).encode(question_answer("Who?", "Anna."))
    assert said(tokenizer, item.answer_ids) == " Anna."
    assert stop_ids(tokenizer) == []
