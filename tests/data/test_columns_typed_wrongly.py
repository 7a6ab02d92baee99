"""A column that is typed wrongly is named beside the one that may have been meant."""

import pytest

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
