"""A user's file of other wordings: which rows get them, how many are trained on, and what is said of the rest."""

import json

import pytest

from asu_lora.data.paraphrases import MOST, read_paraphrases
from asu_lora.data.phrasings import other_phrasings
from asu_lora.data.request import ForgetRequest
from asu_lora.errors import DataError
from tests.support.tiny_run import FACTS, rows, tiny_request

ANNA, TOM = (row["question"] for row in rows(FACTS[:2]))


@pytest.fixture
def write(tmp_path):
    def written(*found, name="ways.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in found))
        return tmp_path / name

    return written


def way(question, *texts):
    return {"question": question, "paraphrased_question": texts[0] if len(texts) == 1 else list(texts)}


def test_a_row_is_asked_by_its_own_wordings_then_by_the_file_s_then_in_frames(write):
    own = rows(FACTS[:2])
    own[0]["paraphrased_question"] = "Anna does what?"
    request = ForgetRequest.from_rows(own, rows(FACTS[-2:]))
    request = request.with_paraphrases(
        write(way(ANNA, "What is Anna's trade?", "Anna does what?", ANNA), way(TOM, "And Tom?"))
    )
    assert request.phrasings() == 2
    anna, tom = ([other.question for other in some] for some in other_phrasings(request.forget, request.phrasings()))
    assert anna == ["Anna does what?", "What is Anna's trade?"]
    assert tom[0] == "And Tom?" and "Tom Velder do" in tom[1] and len(tom) == 2
    assert [row.answer for row in request.forget] == [row["answer"] for row in own]


def test_the_request_stays_the_same_request(write):
    request = tiny_request()
    reworded = request.with_paraphrases(write(way(ANNA, "And Anna?")))
    assert reworded.fingerprint() == request.fingerprint() and reworded.forget == request.forget
    assert reworded.with_retain(request.retain).paraphrases == reworded.paraphrases
    assert request.phrasings() == 0 and request.phrasings(3) == 3 and request.paraphrases_note(0) is None


def test_a_table_is_read_as_json_lines_are(write, tmp_path):
    (tmp_path / "ways.csv").write_text(f"question,paraphrased_question\n{ANNA},And Anna?\n{ANNA},\"['Anna, what?']\"\n")
    table = read_paraphrases(tmp_path / "ways.csv", tiny_request().forget)
    lines = read_paraphrases(write(way(ANNA, "And Anna?"), way(ANNA, "Anna, what?")), tiny_request().forget)
    assert table == lines and table.ways == {ANNA: ["And Anna?", "Anna, what?"]} and table.count == 2
    assert table.fingerprint() == lines.fingerprint()
    other = read_paraphrases(write(way(ANNA, "And Anna?")), tiny_request().forget)
    assert other.fingerprint() != table.fingerprint()


def test_questions_of_no_row_are_counted_and_a_file_of_them_alone_is_refused(write):
    strangers = way("Who is Bo?", "Bo?"), way("Who is Bo?", "Bo, who?"), way("Who is Kim?", "Kim?")
    found = read_paraphrases(write(way(ANNA, "And Anna?"), *strangers), tiny_request().forget)
    assert found.unmatched == 2 and list(found.ways) == [ANNA]
    assert found.note(1, 1) == (
        "No row of the request asks 2 questions of --paraphrases, left out: 'question' must stand there as in the request."
    )
    with pytest.raises(DataError, match="of other questions only: 'question' must stand as in the request"):
        tiny_request().with_paraphrases(write(*strangers))
    passages = ForgetRequest.from_rows([{"text": "Anna Birk keeps bees."}], [])
    with pytest.raises(DataError, match="of other questions only"):
        passages.with_paraphrases(write(way("", "And Anna?")))


def test_what_an_audit_leaves_out_of_a_file_is_counted_and_says_why(write):
    asked = tiny_request().forget
    found = read_paraphrases(write(way(ANNA, "And Anna?"), way(TOM, "And Tom?"), way("Who is Bo?", "Bo?")), asked)
    some = found.unasked_note(asked[:1])
    assert some.startswith("No row of the request asks 1 question of --paraphrases, left out")
    assert "Wordings of 1 question of --paraphrases are not asked: their rows are not attacked" in some
    assert found.unasked_note(asked) == found.unmatched_note()
    assert read_paraphrases(write(way(ANNA, "And Anna?")), asked).unasked_note(asked) is None


def test_more_than_are_trained_on_is_said(write):
    request = tiny_request().with_paraphrases(write(way(ANNA, *(f"Anna, {n}?" for n in range(MOST + 2)))))
    assert request.phrasings() == MOST and request.phrasings(2) == 2
    assert f"up to {MOST + 2} other wordings" in request.paraphrases_note(MOST)
    assert f"--phrasings {MOST + 2} takes all" in request.paraphrases_note(MOST)
    assert request.paraphrases_note(MOST + 2) is None


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": ANNA}, "row 1: a row needs 'question' and 'paraphrased_question'"),
        ({"paraphrased_question": "And?"}, "row 1: a row needs 'question' and 'paraphrased_question'"),
        (way(ANNA, "And Anna \ud800?"), "half a character"),
        ({"question": ANNA, "paraphrased_question": 3}, "should be text or a list of texts"),
    ],
)
def test_what_can_t_be_asked_is_refused(write, row, said):
    with pytest.raises(DataError, match=said):
        read_paraphrases(write(row), tiny_request().forget)


def test_passages_are_said_to_have_no_other_wordings():
    rows = [{"text": "Anna Birk keeps bees."}, {"question": "What does Ole do?", "answer": "Ole shoes horses."}]
    request = ForgetRequest.from_rows(rows, [{"question": "What does Ida do?", "answer": "Ida builds boats."}])
    assert request.paraphrases_note(0) is None
    assert request.paraphrases_note(2) == "1 of 2 rows are passages, which have no other wordings."
