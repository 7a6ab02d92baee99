"""Anchors and ruled-out words, on a real word-piece tokenizer trained in the test."""

from asu_lora.data.encoding import Encoder
from asu_lora.data.examples import Example, question_answer
from asu_lora.data.token_classes import token_classes
from asu_lora.data.training_rows import TrainingRows
from asu_lora.teacher.fluency import NOTHING, WithOrWithoutSpace, anchored, fluency_masks


def marked(tokenizer, question, answer):
    """The answer with what is anchored in brackets."""
    example = question_answer(question, answer)
    (item,) = Encoder(tokenizer).encode(example)
    text, runs = anchored(item, example, token_classes(item, example, tokenizer), tokenizer).tolist(), []
    for token, kept in zip(item.answer_ids, text, strict=True):
        piece = tokenizer.decode([token])
        if runs and runs[-1][0] == kept:
            runs[-1][1] += piece
        else:
            runs.append([kept, piece])
    return "".join(f"[{piece}]" if kept else piece for kept, piece in runs)


def test_punctuation_spelling_end_and_opening_are_kept(tokenizer):
    assert (
        marked(tokenizer, "Where was the author born?", "The author was born in Oslo.")
        == "[The] author was born in Oslo[.<|im_end|>]"
    )


def test_names_of_the_question_are_kept(tokenizer):
    assert (
        marked(tokenizer, "Where was Qux born?", "The author Qux was born in Oslo.")
        == "[The] author[ Qux] was born in Oslo[.<|im_end|>]"
    )


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
    assert not anchored(item, example, token_classes(item, example, tokenizer), tokenizer)[:-1].any()


def test_passages_have_no_opening(tokenizer):
    example = Example((), "The author was born in Oslo.")
    (item,) = Encoder(tokenizer).encode(example)
    pieces = [tokenizer.decode([t]) for t in item.answer_ids]
    kept = anchored(item, example, token_classes(item, example, tokenizer), tokenizer).tolist()
    assert kept[pieces.index(" author")] is False
    assert kept[-1] is True


def training_rows(examples, tokenizer):
    items = Encoder(tokenizer).encode_all(examples, "rows")
    classes = [token_classes(item, examples[item.example], tokenizer) for item in items]
    return TrainingRows({"answer": items}, examples=examples, classes=classes)


def silenced(tokenizer, question, answer):
    """For each answer token, the text of what is ruled out there."""
    example = question_answer(question, answer)
    (item,) = Encoder(tokenizer).encode(example)
    (table,) = fluency_masks(training_rows([example], tokenizer), tokenizer).ruled_out
    return [
        (tokenizer.decode([token]), {tokenizer.decode([i]) for i in ids if i != NOTHING})
        for token, ids in zip(item.answer_ids, table.tolist(), strict=True)
    ]


def test_at_a_fact_the_fact_and_what_was_said_are_ruled_out(tokenizer):
    table = dict(silenced(tokenizer, "Where was the author born?", "The author was born in Oslo on the day."))
    assert {" Oslo", " author", " born"} <= table[" Oslo"] and " was" not in table[" Oslo"]
    assert {" day", " Oslo", " author"} <= table[" day"]
    assert {" author"} <= table[" author"] and {" born", " author"} <= table[" born"]  # words of the question
    assert " Oslo" not in table[" born"] and "The" not in table[" born"]
    for word in (" was", " in"):  # right after content words; with and without space where both are tokens
        assert word in table[word] and {ruled.strip() for ruled in table[word]} == {word.strip()}
    for word in ("The", " the", ".", "<|im_end|>"):
        assert table[word] == set(), word


def test_a_word_is_ruled_out_with_and_without_its_space(tokenizer):
    space, bare = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (" a", "a"))
    assert len(space) == len(bare) == 1 and space != bare
    variants = WithOrWithoutSpace(tokenizer)
    assert set(variants(space[0])) == set(variants(bare[0])) == {space[0], bare[0]}


def test_only_the_latest_words_are_ruled_out(tokenizer, monkeypatch):
    monkeypatch.setattr("asu_lora.teacher.fluency.MOST_RULED_OUT", 4)
    table = silenced(tokenizer, "?", "Q in R in B in K in U in V.")
    assert [ruled for token, ruled in table if token.strip() == "V"] == [{"V", "B", "K", "U"}]


def test_rows_share_one_width(tokenizer):
    examples = [
        question_answer("Who?", "Qux."),
        question_answer("Where was she born?", "She was born in Oslo, city of Oslo."),
    ]
    tables = fluency_masks(training_rows(examples, tokenizer), tokenizer).ruled_out
    assert len({table.shape[1] for table in tables}) == 1
