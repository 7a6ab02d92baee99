"""What verify finds: a line that was changed, dropped, moved or added; states that the lines don't give; an old copy."""

import shutil

import pytest
from sqlalchemy import text

from asu_lora.errors import SettingError
from asu_lora.requests.ledger.history import Head
from asu_lora.requests.ledger.ledger import Ledger
from asu_lora.requests.text_vault import TextVault

DUE = {"due": "2999-01-01T00:00:00Z"}


@pytest.fixture
def written(ledger):
    for request in "abc":
        ledger.record("received", request, DUE | {"owner": request})
        ledger.record("queued", request)
    assert ledger.verify().whole and ledger.verify().sealed == 6
    return ledger


def tamper(ledger, *statements):
    with ledger.database.changing() as connection:
        for statement in statements:
            connection.execute(text(statement))


SWAP = [f"UPDATE history SET number = {a} WHERE number = {b}" for a, b in ((99, 3), (3, 4), (4, 99))]


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["UPDATE history SET payload = replace(payload, '2999', '3999') WHERE number = 3"], "Line 3 was changed"),
        (["UPDATE history SET actor = 'somebody' WHERE number = 1"], "Line 1 was changed"),
        (["UPDATE history SET at = '2020-01-01T00:00:00Z' WHERE number = 6"], "Line 6 was changed"),
        (["DELETE FROM history WHERE number = 4"], "Line 4 is missing"),
        (["DELETE FROM history WHERE number IN (2, 3)"], "Lines 2 to 3 are missing"),
        (["DELETE FROM history WHERE number > 4"], "The last 2 of 6 lines are missing"),
        (SWAP, "Line 3 does not follow on line 2"),
        (["UPDATE requests SET state = 'audited' WHERE id = 'b'"], "another state of b"),
        (["UPDATE requests SET due = '2000-01-01T00:00:00Z' WHERE id = 'b'"], "another due of b"),
        (["DELETE FROM requests WHERE id = 'c'"], "c is missing in the table"),
        (["INSERT INTO requests SELECT 'd', state, received, due, changed, owner, basis, note, rows, attempts, adapter, "
          "sentence, text, audits FROM requests WHERE id = 'a'"], "d stands in the table and not in the history"),
        (["UPDATE history SET payload = 'no json' WHERE number = 2"], "Line 2 makes no sense"),
    ],
)  # fmt: skip
def test_whatever_was_done_to_the_tables_is_found_and_named(written, statements, said):
    tamper(written, *statements)
    found = written.verify()
    assert not found.whole and any(said in finding for finding in found.findings), found.findings


def forge(ledger, last):
    """Cut the history after a line, and mend head and states as somebody who knows the program would."""
    keep = ledger.history()[last - 1]
    tamper(
        ledger,
        f"DELETE FROM history WHERE number > {last}",
        f"UPDATE head SET lines = {last}, hash = '{keep.hash}', sealed_lines = {last}, sealed_hash = '{keep.hash}'",
        "DELETE FROM requests WHERE id = 'c'",
    )


def test_last_lines_that_were_dropped_with_the_head_mended_are_found_by_the_seal(written):
    forge(written, 4)
    assert "The seal of the head is false" in written.verify().findings[0]
    without_key = Ledger(written.database, "auditor")
    assert without_key.verify().whole  # that is what the seal and --expect are for
    assert not Ledger(written.database, "", TextVault(bytes(32)).seal).verify().whole


def test_a_noted_head_tells_a_whole_earlier_copy(written):
    noted = Head.parse(str(written.head()))
    written.record("training", "a")
    assert written.verify(noted).whole  # it went on since
    forge(written, 4)
    assert any("no line 6 with the expected hash" in finding for finding in written.verify(noted).findings)
    with pytest.raises(SettingError, match="no head of a history"):
        Head.parse("12")


def test_a_copy_of_the_file_from_yesterday_is_told_by_the_noted_head_alone(tmp_path, vault):
    from asu_lora.requests.ledger.ledger import open_ledger

    ledger = open_ledger(tmp_path, seal=vault.seal, create=True)
    ledger.record("received", "a", DUE)
    shutil.copy(ledger.database.file, tmp_path / "yesterday")
    ledger.record("queued", "a")
    noted = ledger.head()
    shutil.copy(tmp_path / "yesterday", ledger.database.file)
    assert ledger.verify().whole and not ledger.verify(noted).whole
