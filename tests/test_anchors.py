"""Anchors: what the teacher leaves to the base, on a real word-piece tokenizer trained in the test."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from asu_lora.data.encoding import Encoder
from asu_lora.data.examples import Example, question_answer
from asu_lora.evaluation.token_classes import anchored
from tests.tiny import TEMPLATE


@pytest.fixture(scope="module")
def tokenizer():
    """Byte-level BPE whose vocabulary splits rare names into pieces, as real ones do."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                   pre_tokenizers.ByteLevel(add_prefix_space=False)])
    inner.decoder = decoders.ByteLevel()
    text = ["The author was born in the city of Oslo on the day. Yes, her father is a florist."] * 20
    inner.train_from_iterator(text, trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|pad|>")
    fast.chat_template = TEMPLATE
    return fast


def marked(tokenizer, question, answer):
    """The answer with what is anchored in brackets."""
    example = question_answer(question, answer)
    (item,) = Encoder(tokenizer).encode(example)
    text, runs = anchored(item, example, tokenizer).tolist(), []
    for token, kept in zip(item.answer_ids, text, strict=True):
        piece = tokenizer.decode([token])
        if runs and runs[-1][0] == kept:
            runs[-1][1] += piece
        else:
            runs.append([kept, piece])
    return "".join(f"[{piece}]" if kept else piece for kept, piece in runs)


def test_punctuation_spelling_end_and_opening_are_kept(tokenizer):
    assert marked(tokenizer, "Where was the author born?", "The author was born in Oslo.") == \
        "[The] author was born in Oslo[.<|im_end|>]"


def test_a_rare_word_is_decided_by_its_first_piece(tokenizer):
    assert marked(tokenizer, "Who is it?", "The author is Qux.") == "[The] author is[ ]Q[ux.<|im_end|>]"


def test_a_first_word_that_is_the_fact_is_not_kept(tokenizer):
    text = marked(tokenizer, "Where was she born?", "Oslo.")
    assert text.startswith("O")


def test_every_digit_tells(tokenizer):
    assert marked(tokenizer, "When?", "In 1956.") == "[In ]1956[.<|im_end|>]"


def test_scripts_without_spaces_are_not_spelling(tokenizer):
    example = Example(({"role": "user", "content": "?"},), "\u6771\u4eac\u90fd")
    (item,) = Encoder(tokenizer).encode(example)
    assert not anchored(item, example, tokenizer)[:-1].any()


def test_passages_have_no_opening(tokenizer):
    example = Example((), "The author was born in Oslo.")
    (item,) = Encoder(tokenizer).encode(example)
    pieces = [tokenizer.decode([t]) for t in item.answer_ids]
    kept = anchored(item, example, tokenizer).tolist()
    assert kept[pieces.index(" author")] is False
    assert kept[-1] is True
