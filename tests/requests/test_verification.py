"""What verify finds: a line that was changed, dropped, moved or added; states that the lines don't give; an old copy."""

import shutil

import pytest
from sqlalchemy import text

from asu_lora.errors import SettingError
from asu_lora.requests.ledger.history import Head, read_head
from asu_lora.requests.ledger.ledger import Ledger
from asu_lora.requests.ledger.noted_heads import note_head, read_heads
from asu_lora.requests.ledger.verification import verify
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


TAKEN_OFF = "UPDATE head SET seal = NULL, key_id = NULL, sealed_lines = 0, sealed_hash = '" + "0" * 64 + "'"


@pytest.mark.parametrize("how", ["forged", "taken off"])
def test_a_seal_that_is_false_or_gone_is_not_made_good_by_what_comes_later(written, how):
    forge(written, 4)
    if how == "taken off":
        tamper(written, TAKEN_OFF)
    said = "The seal of the head is false" if how == "forged" else "The head bears no seal"
    assert said in written.verify().findings[0]
    written.record("training", "a")  # by somebody who has the key
    assert said in written.verify().findings[0] and written.verify().head.lines == 5


def test_lines_written_without_the_key_are_sealed_with_the_next_that_has_it(written):
    Ledger(written.database, "desk").record("training", "a")
    assert written.verify().whole and written.verify().sealed == 6
    written.record("trained", "a", {"adapter": "a"})
    assert written.verify().whole and written.verify().sealed == 8


def test_heads_in_a_file_elsewhere_tell_a_history_that_was_written_anew(written, tmp_path):
    file = tmp_path / "heads.txt"
    for event, told in (("training", {}), ("trained", {"adapter": "a"})):
        note_head(file, written.head())
        note_head(file, written.head())  # once is enough
        written.record(event, "a", told)
    heads = read_heads(file)
    assert [head.lines for head in heads] == [6, 7] and written.verify(*heads).whole
    forge(written, 6)
    told = " ".join(written.verify(*heads).findings)
    assert "no line 7 with the expected hash" in told and "no line 6" not in told
    file.write_text("2026-01-01T00:00:00Z 6:abc\n")
    with pytest.raises(SettingError, match="line 1 is no noted head"):
        note_head(file, written.head())


def test_a_check_beside_a_run_sees_one_moment(written, address):
    with written.database.reading() as connection:
        before = read_head(connection)
        written.record("training", "a")
        assert read_head(connection) == before
        assert verify(connection, written.seal).whole
