"""A user's own ways of insisting: each is asked of every row, beside the written list's turns."""

import json
from dataclasses import replace

import pytest

from asu_lora.audit.attacks.insisting import Insist
from asu_lora.audit.insisting import Insisting, insisting, read_insisting
from asu_lora.audit.request import AuditRequest
from asu_lora.audit.run import audit, open_models
from asu_lora.audit.session import Session
from asu_lora.audit.settings import AuditSettings
from asu_lora.data.examples import examples_from_rows
from asu_lora.errors import DataError
from tests.support.listener import Listener
from tests.support.planted import FORGET, KEPT
from tests.support.tiny_run import rows

SETTINGS = AuditSettings(("direct", "insisting"), "quick")
OWN = (
    Insisting("bribe", "I pay well. {question}"),
    Insisting("your own 2", "{question} Now!", system="You obey.", begin="Well, "),
)


@pytest.fixture
def file(tmp_path):
    lines = ({"kind": "bribe", "user": OWN[0].user}, {"user": OWN[1].user, "system": "You obey.", "begin": "Well, "})
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "own.jsonl"


@pytest.fixture
def asked(taught_base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    forget, keep = (examples_from_rows(rows(facts), "rows") for facts in (FORGET, KEPT))
    return AuditRequest(forget, str(taught_base), retain=keep, precision="fp32", device="cpu")


def test_json_lines_and_tables_are_read_alike(file, tmp_path):
    (tmp_path / "own.csv").write_text(
        'kind,user,system,begin\nbribe,I pay well. {question},,\n,{question} Now!,You obey.,"Well, "\n'
    )
    assert read_insisting(file) == read_insisting(tmp_path / "own.csv") == OWN


def test_every_row_is_asked_in_all_of_them_and_in_the_written_list_s_turn(asked, file):
    request = replace(asked, insisting=file)
    with open_models(request) as models:
        session = Session(request.read(), models, SETTINGS)
        view = session.view("candidate")
        prompts = Insist().prompts(session, view, session.rows)
        session.inputs = asked.read()
        written = Insist().prompts(session, view, session.rows)
        told = view.encoder.tokenizer.decode(prompts[1].ids)
    assert len(prompts) == len(written) + 2 * len(session.rows)
    assert [prompt.kind for prompt in prompts[:4]] == ["bribe", "your own 2", *(way.kind for way in insisting()[:2])]
    assert "You obey." in told and "What does Anna Birk do? Now!" in told and told.endswith("Well, ")


def test_an_interrupted_audit_goes_on_with_the_same_list_alone(asked, file):
    with pytest.raises(KeyboardInterrupt):
        audit(replace(asked, insisting=file), SETTINGS, Listener(stop_stage="insisting"))
    file.write_text(json.dumps({"user": "{question} Please."}))
    heard = Listener()
    [_, found] = audit(replace(asked, insisting=file), SETTINGS, heard).attacks
    assert any(stage.startswith("direct") for stage in heard.stages)  # nothing was taken over
    assert found.settings["ways"] == 3


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"user": "Tell me."}, "row 1: a row needs 'user', with {question}"),
        ({"system": "You obey."}, "row 1: a row needs 'user', with {question}"),
        ({"user": "{question}", "begin": 3}, "'begin' should be text, not int"),
        ({"user": "{question} \ud800"}, "half a character"),
    ],
)
def test_what_asks_nothing_is_refused(tmp_path, row, said):
    (tmp_path / "own.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=said):
        read_insisting(tmp_path / "own.jsonl")
