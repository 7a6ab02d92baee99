"""Which tokens carry facts: by words of English, whatever the tokenizer makes of them."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asu_lora.data.encoding import Encoded, Encoder
from asu_lora.data.examples import Example, question_answer
from asu_lora.data.token_classes import TokenClass, token_classes
from tests.support.tiny_base import tiny_tokenizer

F, C, X = TokenClass.FUNCTION, TokenClass.COPIED, TokenClass.FACTUAL


def sentencepiece(words: list[str]):
    """Whole words as tokens behind "▁", as Llama 2 and Mistral have them; a token decoded alone loses its space."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {token: i for i, token in enumerate(["<unk>", "</s>", *dict.fromkeys("▁" + word for word in words)])}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", pad_token="<unk>")


def words_of(question: str, answer: str) -> dict[str, TokenClass]:
    """The class of every word of an answer, by a tokenizer of letters: all letters of a word agree."""
    tokenizer = tiny_tokenizer()
    example = question_answer(question, answer)
    [item] = Encoder(tokenizer).encode(example)
    classes = token_classes(item, example, tokenizer)
    assert len(classes) == len(item.answer_ids) and classes[-1] is F  # the end of turn is no fact
    found, at = {}, 0
    for word in answer.split(" "):
        is_letter = [letter.isalnum() for letter in word for _ in letter.encode()]
        letters = [classes[at + i] for i, yes in enumerate(is_letter) if yes]
        if letters:
            assert len(set(letters)) == 1, (word, letters)
            found[word.strip(".,")] = letters[0]
        at += len(word.encode()) + 1
    return found


def test_function_copied_and_factual_words():
    found = words_of("Where was the author Anna Berg born?", "The author Anna was born in Aarhus, not in Oslo.")
    assert found == {"The": F, "author": C, "Anna": C, "was": F, "born": C, "in": F, "Aarhus": X, "not": F, "Oslo": X}


def test_plurals_and_possessives_of_the_question_are_copied():
    found = words_of("Which books made Anna's name?", "Anna named one book, Berg\u2019s, as Annas did.")
    assert found["Anna"] is C and found["book"] is C and found["Annas"] is C
    assert found["Berg\u2019s"] is X and found["named"] is X


@pytest.mark.parametrize(
    "word",
    [
        "don't",
        "doesn\u2019t",
        "isn't",
        "can't",
        "won\u2019t",
        "he'll",
        "I'm",
        "they\u2019ve",
        "it's",
        "wouldn't",
        "AREN'T",
    ],
)
def test_contractions_are_function_words(word):
    assert words_of("Who?", f"Berg {word} Aarhus") == {"Berg": X, word: F, "Aarhus": X}


@pytest.mark.parametrize(
    "word",
    [
        "d'Artagnan",
        "M'Baku",
        "T'Challa",
        "Son",
        "Don",
        "O\u2019Brien",
        "1907",
        "Bergwasser",
        "Café",
        "Öre",
        "Ðorđe",
        "Москва",
        "東京",
        "co-author",
    ],
)
def test_names_and_numbers_are_facts_whatever_they_look_like(word):
    assert words_of("Who?", f"It was {word} of Berg") == {"It": F, "was": F, word: X, "of": F, "Berg": X}


def test_tokens_that_lose_their_space_alone_keep_their_word():
    answer = "She was born in Aarhus and lives there"
    tokenizer = sentencepiece(answer.split())
    item = Encoded((1,), (*tokenizer(answer, add_special_tokens=False).input_ids, 1))
    assert tokenizer.decode([item.answer_ids[1]]) == "was"  # without its space
    classes = token_classes(item, question_answer("Where was she born?", answer), tokenizer)
    assert classes == [F, F, C, F, X, F, X, F, F]


def test_an_answer_cut_in_the_middle_of_a_character():
    tokenizer = tiny_tokenizer()
    example = question_answer("Who?", "Ana Ø")
    whole = tokenizer("Ana Ø", add_special_tokens=False).input_ids
    assert token_classes(Encoded((1,), tuple(whole[:-1])), example, tokenizer) == [X, X, X, F, F]
    assert token_classes(Encoded((1,), tuple(whole)), example, tokenizer) == [X, X, X, F, X, X]


def factual(example, max_length=512, tokenizer=None) -> list[str]:
    """What is factual in each part of a row, by a tokenizer of letters."""
    tokenizer = tokenizer or tiny_tokenizer()
    return [
        tokenizer.decode([
            token
            for token, kind in zip(item.answer_ids, token_classes(item, example, tokenizer), strict=True)
            if kind is X
        ])
        for item in Encoder(tokenizer, max_length).encode(example)
    ]  # fmt: skip


@pytest.mark.parametrize("form", ["NFC", "NFKC"])
@pytest.mark.parametrize("answer", ["Ada lives in Ko\u0308ln.", "Ada lives in K\u00f6ln."])
def test_spans_are_found_in_the_spelling_of_the_tokenizer(form, answer):
    from tokenizers import normalizers

    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = getattr(normalizers, form)()
    [span] = re.findall(r"K\w+\W?ln", answer)
    for spans in ([span], [[answer.index("K"), answer.index(".")]]):
        example = question_answer("Where does Ada live?", answer, spans=spans)
        assert factual(example, tokenizer=tokenizer) == ["K\u00f6ln"]


def test_a_span_that_two_parts_of_a_passage_share_is_factual_in_both():
    text = "Ada moved to the town of Springfield in the winter of 1907 and stayed."
    at = text.index("Springfield")
    for spans in (["Springfield"], [[at, at + 11]]):
        assert factual(Example((), text, {"spans": spans}), 32) == ["Springf", "ield", ""]


@pytest.mark.parametrize(
    "cell", ['["Spring", "1907"]', "['Spring', '1907']", "['Spring' '1907']", "[[3, 9], [11, 15]]", "[[3,9],[11,15]]"]
)
def test_a_cell_of_a_table_may_hold_a_list_of_spans(cell):
    assert factual(question_answer("Where?", "In Spring, 1907.", spans=cell)) == ["Spring1907"]
    assert factual(question_answer("What?", "A [sic] it is.", spans="[sic]")) == ["[sic]"]


def test_a_span_of_a_cut_answer_keeps_what_is_left():
    example = question_answer("Where?", "In Springfield.", spans=["Springfield"])
    [item] = Encoder(TOKENIZER).encode(example)
    assert factual(example, len(item) - item.end - 6) == ["Spring"]


@pytest.mark.parametrize("length", range(43, 52))
def test_a_pair_is_found_where_the_last_part_repeats_an_earlier_text(length):
    text = "Ada met Bo. The others came by train. Then came Bo."
    at = text.rindex("Bo")
    assert "".join(factual(Example((), text, {"spans": [[at, at + 2]]}), length)) == "Bo"


TOKENIZER = tiny_tokenizer()


@settings(max_examples=100, deadline=None)
@given(
    answer=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(str.strip),
    question=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
)
def test_every_token_of_any_text_has_a_class(answer, question):
    example = question_answer(question, answer)
    [item] = Encoder(TOKENIZER).encode(example)
    classes = token_classes(item, example, TOKENIZER)
    assert len(classes) == len(item.answer_ids)
    assert classes == token_classes(item, example, TOKENIZER)
