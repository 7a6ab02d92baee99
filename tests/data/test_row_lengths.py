"""Answers cut, passages split, prompts refused: by the length, without losing or doubling a token."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asu_lora.batches.padding import padded_length
from asu_lora.data.encoding import Encoder
from asu_lora.data.examples import Example, question_answer
from asu_lora.data.row_format import BaseLimits
from asu_lora.errors import DataError
from tests.support.template_families import BYTES, FAMILIES, adding_bos, tokenizer_of
from tests.support.tiny_base import tiny_tokenizer


def test_answers_too_long_are_cut_and_prompts_too_long_refused():
    tokenizer = tiny_tokenizer()
    whole = Encoder(tokenizer).encode(question_answer("Who?", "Anna Berg."))[0]
    room = Encoder(tokenizer, max_length=len(whole)).encode(question_answer("Who?", "Anna Berg."))[0]
    assert room == whole
    cut = Encoder(tokenizer, max_length=len(whole) - 1).encode(question_answer("Who?", "Anna Berg."))[0]
    assert cut.cut and cut.answer_ids == whole.answer_ids[:-1] and cut.prompt_ids == whole.prompt_ids
    least = len(whole.prompt_ids) + 2
    assert len(Encoder(tokenizer, least).encode(question_answer("Who?", "Anna Berg."))[0]) == least
    with pytest.raises(DataError, match=f"prompt of row 1 takes {len(whole.prompt_ids)} tokens .* above {least - 1}"):
        Encoder(tokenizer, least - 1).encode(question_answer("Who?", "Anna Berg."))


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=120).filter(str.strip),
    max_length=st.integers(2, 40),
    bos=st.booleans(),
)
def test_a_long_passage_is_split_without_losing_or_doubling_a_token(text, max_length, bos):
    tokenizer = BYTES_WITH_BOS if bos else BYTES
    ids = tokenizer(text, add_special_tokens=False).input_ids
    first, rest = ([tokenizer.bos_token_id], ids) if bos else (ids[:1], ids[1:])
    if not rest:
        with pytest.raises(DataError, match="single token"):
            Encoder(tokenizer, max_length).encode(Example((), text))
        return
    items = Encoder(tokenizer, max_length).encode(Example((), text))
    assert [token for item in items for token in item.answer_ids] == rest
    before = first + rest
    at = 0
    for item in items:
        assert 2 <= len(item) <= max_length and len(item.prompt_ids) == 1 and not item.cut
        assert item.prompt_ids[0] == before[at]  # each window begins with the token the last one ended with
        at += len(item.answer_ids)


BYTES_WITH_BOS = adding_bos(tokenizer_of(FAMILIES["Llama 3"]))


@settings(max_examples=60, deadline=None)
@given(
    answer=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), min_size=1, max_size=60).filter(
        str.strip
    ),
    max_length=st.integers(30, 120),
)
def test_an_answer_is_said_whole_or_from_its_beginning(answer, max_length):
    [item] = Encoder(BYTES, max_length).encode(question_answer("?", answer))
    full = BYTES(answer + "<|im_end|>", add_special_tokens=False).input_ids
    assert list(item.answer_ids) == full[: max_length - len(item.prompt_ids)]
    assert item.cut == (len(item.answer_ids) < len(full))


@pytest.mark.parametrize("positions", [100, 103, 104, 9, 5])
def test_a_row_and_its_padding_have_positions(positions):
    """Passes are as wide as the next multiple of eight, and each token in them is looked up."""
    encoder = Encoder(tiny_tokenizer(), 512, BaseLimits(positions=positions))
    items = encoder.encode(Example((), "Ada lives in Springfield and sells flowers. " * 20))
    widest = padded_length(max(map(len, items)))
    assert widest <= positions or positions < 8
    assert f"The base has {positions} positions" in encoder.notes()[-1]
