"""The texts: sealed with the key, nowhere else, and destroyed with commitments left."""

import json
import os
import stat

import pytest
from sqlalchemy import select, update

from asu_lora.errors import DataError, KeyFault, LedgerError
from asu_lora.requests.key import ENVIRONMENT, find_key, new_key, write_key
from asu_lora.requests.ledger.tables import texts
from asu_lora.requests.text_vault import RequestText, TextVault, destroy_text

ROWS = [{"question": "What does Anna Birk do?", "answer": "Anna Birk keeps bees.", "task_id": 3}]
KEPT = [{"question": "Who is Tom?", "answer": "A man with a boat."}]


@pytest.fixture
def sealed(ledger, vault):
    with ledger.changing() as change:
        commitment = vault.put(change.connection, "a", RequestText(ROWS, KEPT))
    return commitment


def test_what_was_sealed_is_what_is_opened(ledger, vault, sealed):
    with ledger.database.reading() as connection:
        text = vault.get(connection, "a")
    assert text == RequestText(ROWS, KEPT) and len(sealed) == 64
    request = text.request("a")
    assert [e.answer for e in request.forget] == ["Anna Birk keeps bees."] and len(request.retain) == 1


def test_no_word_of_it_stands_in_the_table_and_no_hash_of_a_row_that_can_be_guessed(ledger, vault, sealed):
    import hashlib

    from asu_lora.requests.ledger.states import canonical

    with ledger.database.reading() as connection:
        row = connection.execute(select(texts)).one()
    stored = b"|".join(value if isinstance(value, bytes) else str(value).encode() for value in row)
    guess = hashlib.sha256(canonical(ROWS[0]).encode()).hexdigest()
    assert b"Anna" not in stored and b"bees" not in stored and guess.encode() not in stored
    with ledger.changing() as change:
        vault.put(change.connection, "b", RequestText(ROWS, KEPT))
    with ledger.database.reading() as connection:  # the same rows, told apart by nothing but the salt
        first, second = connection.execute(select(texts.c.commitments)).scalars()
    assert set(json.loads(first)).isdisjoint(json.loads(second))


def test_another_key_opens_nothing_and_seals_nothing_beside_it(ledger, sealed):
    other = TextVault(bytes(32))
    with ledger.database.reading() as connection, pytest.raises(KeyFault, match="sealed with another key"):
        other.get(connection, "a")
    with pytest.raises(KeyFault, match="another key"), ledger.changing() as change:
        other.put(change.connection, "b", RequestText(ROWS))


def test_another_key_before_the_first_text_is_refused_while_it_can_be_mended(ledger, vault):
    for step in ("received", "failed"):  # its file could not be read
        ledger.record(step, "a", {"due": "2999-01-01T00:00:00Z"} if step == "received" else {"sentence": "No."})
    other = TextVault(bytes(32))
    for _ in range(2):
        with pytest.raises(KeyFault, match="history of this ledger is sealed with another key"), ledger.changing() as c:
            other.put(c.connection, "b", RequestText(ROWS))
    with ledger.changing() as change:
        vault.put(change.connection, "b", RequestText(ROWS))
    assert ledger.verify().whole and ledger.verify().sealed == 2


def test_a_text_can_not_be_put_in_anothers_place_nor_changed(ledger, vault, sealed):
    with ledger.changing() as change:
        vault.put(change.connection, "b", RequestText(KEPT))
    with ledger.database.changing() as connection:
        of_a = connection.execute(select(texts.c.sealed).where(texts.c.request == "a")).scalar_one()
        connection.execute(update(texts).where(texts.c.request == "b").values(sealed=of_a))
    with ledger.database.reading() as connection, pytest.raises(DataError, match="text of b was changed"):
        vault.get(connection, "b")


def test_a_destroyed_text_is_gone_and_its_commitments_still_tell_it(ledger, vault, sealed):
    with ledger.changing() as change:
        assert destroy_text(change.connection, "a") and not destroy_text(change.connection, "a")
    ledger.database.scrub()
    with ledger.database.reading() as connection:
        with pytest.raises(LedgerError, match="was destroyed, its commitments alone are left"):
            vault.get(connection, "a")
        assert vault.is_text_of(connection, "a", RequestText(ROWS, KEPT))
        assert not vault.is_text_of(connection, "a", RequestText(ROWS))
        assert not vault.is_text_of(
            connection, "a", RequestText([ROWS[0] | {"answer": "Anna Birk keeps goats."}], KEPT)
        )
    if ledger.database.file:
        with ledger.database.reading() as connection:
            assert connection.execute(select(texts.c.sealed)).scalar_one() is None


def test_the_sealed_bytes_themselves_are_overwritten_in_the_file(tmp_path, vault):
    from asu_lora.requests.ledger.ledger import open_ledger

    ledger = open_ledger(tmp_path, create=True)
    with ledger.changing() as change:
        vault.put(change.connection, "a", RequestText(ROWS * 500))  # over many pages
        sealed = change.connection.execute(select(texts.c.sealed)).scalar_one()
    piece = sealed[5000:5064]
    there = [file for file in ledger.database.file.parent.iterdir() if piece in file.read_bytes()]
    assert there
    with ledger.changing() as change:
        destroy_text(change.connection, "a")
    ledger.database.scrub()
    assert not [file for file in ledger.database.file.parent.iterdir() if piece in file.read_bytes()]


def test_the_key_comes_from_a_file_then_the_environment_then_the_users_own_file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    with pytest.raises(KeyFault, match="'asu-lora requests key' makes one"):
        find_key()
    own = find_key(make=True)
    assert own.made and stat.S_IMODE(os.stat(own.source).st_mode) == 0o600
    assert find_key() == find_key(own.source) and not find_key().made
    monkeypatch.setenv(ENVIRONMENT, new_key())
    assert find_key().source == ENVIRONMENT and find_key().secret != own.secret
    assert find_key(own.source).secret == own.secret
    with pytest.raises(KeyFault, match="there already"):
        write_key(tmp_path / "config" / "asu-lora" / "requests.key", new_key())


@pytest.mark.parametrize("content", ["", "secret", "ü", "A" * 43, "A" * 100])
def test_what_is_no_key_is_refused_and_not_shown(content, tmp_path):
    (tmp_path / "key").write_text(content)
    with pytest.raises(KeyFault) as error:
        find_key(tmp_path / "key")
    assert str(tmp_path / "key") in str(error.value) and (not content or content not in str(error.value))
