"""A user's own wordings in an audit: asked of their rows, and what is not asked is said in the result."""

import json
from dataclasses import replace

import pytest

from asu_lora.audit.request import AuditRequest
from asu_lora.audit.run import audit
from asu_lora.audit.settings import AuditSettings
from asu_lora.errors import DataError
from tests.support.listener import Listener
from tests.support.planted import FORGET, KEPT
from tests.support.tiny_run import rows

ANNA, TOM = (row["question"] for row in rows(FORGET[:2]))
SETTINGS = AuditSettings(("paraphrases",), "quick")


@pytest.fixture
def asked(taught_base, tmp_path, monkeypatch):
    """The request of a base without an adapter, whose parts lie in the folder that one is in."""
    monkeypatch.chdir(tmp_path)
    for name, facts in (("forget", FORGET), ("keep", KEPT)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows(facts))))
    return AuditRequest(
        forget=tmp_path / "forget.jsonl",
        retain=tmp_path / "keep.jsonl",
        base=str(taught_base),
        precision="fp32",
        device="cpu",
        paraphrases=tmp_path / "ways.jsonl",
        records=tmp_path / "records",
    )


def write(asked, *pairs):
    told = [{"question": question, "paraphrased_question": text} for question, text in pairs]
    asked.paraphrases.write_text("\n".join(map(json.dumps, told)))


def given(asked):
    """What was given to the audited model, by question."""
    lines = map(json.loads, (asked.records / "paraphrases.jsonl").read_text().splitlines())
    told = [line for line in lines if line["model"] == "candidate"]
    return {
        question: [line["given"].strip() for line in told if line["question"] == question] for question in (ANNA, TOM)
    }


def test_questions_that_no_row_asks_are_counted_in_the_result_and_on_the_way(asked):
    write(asked, (ANNA, "And Anna?"), ("Who is Bo?", "Bo?"), ("Who is Kim?", "Kim?"))
    listener = Listener()
    [found] = audit(asked, SETTINGS, listener).attacks
    said = "No row of the request asks 2 questions of --paraphrases, left out"
    assert any(note.startswith(said) for note in found.notes) and any(said in note for note in listener.notes)
    assert "And Anna?" in given(asked)[ANNA] and "And Anna?" not in given(asked)[TOM]


def test_wordings_of_rows_that_are_not_attacked_are_counted(asked):
    repeats = {"question": "Does Bo fish?", "answer": "Bo fish."}  # its question tells all
    asked.forget.write_text("\n".join(map(json.dumps, [*rows(FORGET), repeats])))
    write(asked, (ANNA, "And Anna?"), ("Does Bo fish?", "Bo fishes?"))
    [found] = audit(asked, SETTINGS).attacks
    assert any("Wordings of 1 question of --paraphrases are not asked" in note for note in found.notes)


def test_a_wording_that_a_row_has_already_is_asked_once(asked):
    first, *others = rows(FORGET)
    asked.forget.write_text("\n".join(map(json.dumps, [first | {"paraphrased_question": "And Anna?"}, *others])))
    write(asked, (ANNA, "And Anna?"))
    audit(asked, SETTINGS)
    assert given(asked)[ANNA].count("And Anna?") == 1


def test_a_file_that_no_chosen_attack_asks_is_said(asked):
    write(asked, (ANNA, "And Anna?"))
    listener = Listener()
    audit(asked, replace(SETTINGS, attacks=("direct",)), listener)
    assert any("the attack paraphrases is not chosen" in note for note in listener.notes)


def test_a_file_of_other_questions_alone_is_refused(asked):
    write(asked, ("Who is Bo?", "Bo?"))
    with pytest.raises(DataError, match="of other questions only: 'question' must stand as in the request") as caught:
        audit(asked, SETTINGS)
    assert "\n" not in str(caught.value)
