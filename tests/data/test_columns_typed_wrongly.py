"""A column that is typed wrongly is named beside the one that may have been meant."""

import pytest

from asu_lora.data.column_notes import columns_note
from asu_lora.data.request import ForgetRequest
from asu_lora.errors import DataError


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"qestion": "a", "answer": "b"}, "Did you mean 'question' by 'qestion'?"),
        ({"question": "a", "anwser": "b"}, "Did you mean 'answer' by 'anwser'?"),
        ({"mesages": [{"role": "user", "content": "a"}]}, "Did you mean 'messages' by 'mesages'?"),
        ({"question": None, "Question": "a", "answer": "b"}, "Did you mean 'question' by 'Question'?"),
        ({"prompt": "a", "answer": "b"}, "the columns found are 'prompt', 'answer'."),
    ],
)
def test_the_sentence_names_it_and_what_is_kept_of_it_does_not(row, says):
    with pytest.raises(DataError) as caught:
        ForgetRequest.from_rows([row])
    assert str(caught.value).endswith(says)
    assert "mean" not in caught.value.textless  # a column may be called after a person


@pytest.mark.parametrize(
    ("column", "meant"),
    [
        ("paraphrased_qestion", "paraphrased_question"),
        ("Paraphrased Question", "paraphrased_question"),
        ("perturbed_answers", "perturbed_answer"),
        ("span", "spans"),
        ("alias", "aliases"),
        ("Language", "language"),
    ],
)
def test_an_optional_one_is_said_in_a_note(column, meant):
    rows = [{"question": "a", "answer": "b", column: "c"}, {"question": "d", "answer": "e"}]
    note = columns_note(ForgetRequest.from_rows(rows).forget)
    assert note == f"1 row has '{column}' (did you mean '{meant}'?), which nothing reads."


@pytest.mark.parametrize(
    "row",
    [
        {"language": "de", "languages": "de, fr"},  # who has the column means another by one like it
        {"paraphrased_qestion": None},
        {"task_id": 1, "question_id": "q1", "translated_answer": "c", "source_language": "de", "generated_answer": "d"},
    ],
)
def test_columns_of_ones_own_are_no_mistakes(row):
    rows = ForgetRequest.from_rows([{"question": "a", "answer": "b"} | row]).forget
    assert columns_note(rows) is None
