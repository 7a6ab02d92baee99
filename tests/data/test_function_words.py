"""Facts in other languages than English: which language a row is in, and which of its words tell something."""

import pytest

from asu_lora.data.encoding import Encoder
from asu_lora.data.examples import question_answer
from asu_lora.data.function_words import function_words, language_of, languages_note
from asu_lora.data.request import ForgetRequest
from asu_lora.data.token_classes import TokenClass, pieces, token_classes
from asu_lora.forgetting.forget import forget
from tests.support.listener import Listener
from tests.support.tiny_base import tiny_tokenizer
from tests.support.tiny_run import FACTS, rows, tiny_settings

F, C, X = TokenClass.FUNCTION, TokenClass.COPIED, TokenClass.FACTUAL
ASKED = {
    "de": ("Wo wohnt Ada Birk?", "Sie wohnt nach dem Krieg in Bremen."),
    "es": ("¿Dónde vive Ada Birk?", "Ella vive en Sevilla desde la guerra."),
    "fr": ("Où habite Ada Birk ?", "Elle habite à l'abbaye de Cluny."),
    "zh": ("艾达住在哪里？", "她住在北京。"),
    "ja": ("エイダはどこに住んでいますか？", "彼女は京都に住んでいます。"),
    "ar": ("أين تعيش آدا؟", "هي تعيش في القاهرة."),
    "ru": ("Где живёт Ада?", "Она живёт в Казани."),
    "en": ("Where does Ada Birk live?", "She has lived in Leeds since the war."),
}


def classes_of(question: str, answer: str, **extra) -> list[tuple[str, TokenClass]]:
    """Every piece of the answer with its class; the tokenizer writes bytes."""
    tokenizer = tiny_tokenizer()
    example = question_answer(question, answer, **extra)
    [item] = Encoder(tokenizer).encode(example)
    classes, found, at = token_classes(item, example, tokenizer), [], 0
    for tokens, piece in pieces(item.answer_ids, tokenizer):
        found.append((piece, classes[at]))
        at += tokens
    return found


def factual(question: str, answer: str, **extra) -> str:
    return "".join(piece for piece, kind in classes_of(question, answer, **extra) if kind is X)


@pytest.mark.parametrize("language", ASKED)
def test_the_language_is_told_by_letters_and_function_words(language):
    assert language_of(question_answer(*ASKED[language])) == language


@pytest.mark.parametrize(
    "language, facts",
    [("de", "KriegBremen"), ("es", "Sevillaguerra"), ("fr", "labbayeCluny"), ("zh", "北京"), ("ar", "القاهرة")]
    + [("ru", "Казани"), ("en", "Leedswar")],
)
def test_what_is_neither_grammar_nor_asked_is_a_fact(language, facts):
    found = factual(*ASKED[language])
    assert found.replace("lived", "") == facts


def test_vowel_signs_belong_to_their_word():
    assert factual("आदा कहाँ रहती है?", "वह दिल्ली में रहती है।") == "दिल्ली"


def test_english_is_left_only_for_a_language_that_finds_clearly_more():
    assert language_of(question_answer("Was Ada in?", "Ada was in Rome.")) == "en"  # German words, too


def test_a_row_may_say_its_language_itself():
    answer = "Der Bremer."  # one word of German alone might be a name
    assert language_of(question_answer("?", answer)) == "en"
    assert language_of(question_answer("?", answer, language="de_AT")) == "de"
    for name, code in (("English", "en"), ("German", "de"), (" FRENCH", "fr"), ("Klingon", "klingon")):
        assert language_of(question_answer("?", answer, language=name)) == code
    assert factual("?", answer, language="de") == "Bremer" and factual("?", answer) == "DerBremer"


def test_a_language_without_a_list_is_no_obstacle():
    assert function_words("th") == function_words("xx") == frozenset()
    question, answer = "อาดาอยู่ที่ไหน", "เธออยู่เชียงใหม่"
    assert language_of(question_answer(question, answer)) == "th"
    assert factual(question, answer) == "เธอเชียงใหม่" or "อยู่" not in factual(question, answer)
    note = languages_note([question_answer(question, answer), question_answer(*ASKED["en"])])
    assert note is not None and "no list for th" in note and "'spans'" in note
    assert languages_note([question_answer(*ASKED["en"])]) is None


def test_a_request_in_four_languages_is_forgotten_and_it_is_said_whose_words_are_in_use(base, tmp_path):
    request = ForgetRequest.from_rows(
        [{"question": q, "answer": a} for q, a in (ASKED[name] for name in ("de", "es", "zh", "ar"))], rows(FACTS[6:])
    )
    heard = Listener()
    made = forget(request, base, tiny_settings(epochs=1, own_words=0.0), store=tmp_path, progress=heard)
    assert made.path.is_dir()
    assert "Function words are those of de (1 row), es (1 row), zh (1 row), ar (1 row)." in heard.notes
