"""What comes in: dates, ids, files; what is refused leaves nothing, what is broken is kept with its due date."""

import json
from datetime import UTC, datetime

import pytest

from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import DataError, LedgerError, SettingError, StoreError
from asu_lora.requests.deployment import look_at
from asu_lora.requests.forget_text import forget_text
from asu_lora.requests.intake import Details, Files, add, hand_in_again
from asu_lora.requests.ledger.due_dates import due_moment
from asu_lora.requests.ledger.ledger import open_ledger
from asu_lora.requests.withdrawal import withdraw
from tests.support.tiny_run import FACTS, rows

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
DETAILS = Details("2999-01-01T00:00:00Z", owner="privacy desk")


def write(path, content):
    path.write_text("\n".join(map(json.dumps, content)) if isinstance(content, list) else content)
    return str(path)


@pytest.fixture
def take_in(ledger, vault, tmp_path):
    return lambda request, file, **more: add(
        ledger, vault, request, Files(file, **more), DETAILS, store=AdapterStore(tmp_path / "store")
    )


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("30d", "2026-05-31T12:00:00Z"),
        ("2w", "2026-05-15T12:00:00Z"),
        ("12h", "2026-05-02T00:00:00Z"),
        ("2026-05-01", "2026-05-01T23:59:59Z"),
        ("20260501", "2026-05-01T23:59:59Z"),
        ("2026-W18-5", "2026-05-01T23:59:59Z"),
        ("2026-05-02T01:00:00+02:00", "2026-05-01T23:00:00Z"),
    ],
)
def test_due_dates_as_people_write_them(text, moment):
    assert due_moment(text, NOW) == moment


@pytest.mark.parametrize("text", ["2026-04-30", "0d", "2026-05-01T11:59:00Z"])
def test_a_due_date_in_the_past_is_refused(text):
    with pytest.raises(SettingError, match="has passed already"):
        due_moment(text, NOW)


@pytest.mark.parametrize("text", ["soon", "30", "d", "2026-02-30", "999999w", "-3d"])
def test_what_is_no_date_is_refused(text):
    with pytest.raises(SettingError, match="is no date"):
        due_moment(text, NOW)


def test_a_request_is_queued_with_its_rows_sealed(ledger, vault, take_in, tmp_path):
    file = write(tmp_path / "a.jsonl", [row | {"who": name} for row, (name, _) in zip(rows(), FACTS, strict=True)])
    found = take_in("T-1", file, retain=write(tmp_path / "k.jsonl", [{"text": "Kept."}]), where={"who": "Anna Birk"})
    assert (found.state, found.rows, found.text, found.owner) == ("queued", 1, "sealed", "privacy desk")
    with ledger.database.reading() as connection:
        assert vault.get(connection, "T-1").forget[0]["answer"] == "Anna Birk keeps bees."


@pytest.mark.parametrize("request_id", ["../up", "", ".hidden", "a b", "x" * 101])
def test_an_id_that_no_adapter_can_have_is_refused(request_id, take_in, ledger, tmp_path):
    with pytest.raises(StoreError, match="can't be an adapter's name"):
        take_in(request_id, write(tmp_path / "a.jsonl", rows()))
    assert ledger.head().lines == 0


def test_a_second_request_of_an_id_a_missing_file_and_a_name_in_the_store_leave_no_line(take_in, ledger, tmp_path):
    file = write(tmp_path / "a.jsonl", rows())
    take_in("T-1", file)
    (tmp_path / "store" / "trained").mkdir(parents=True)
    lines = ledger.head().lines
    for request, path, fault in (
        ("T-1", file, LedgerError),
        ("T-2", file + "l", DataError),
        ("trained", file, StoreError),
    ):
        with pytest.raises(fault):
            take_in(request, path)
    assert ledger.head().lines == lines and len(ledger.requests()) == 1


BROKEN = {
    "cut.jsonl": '{"question": "What does Anna Birk do?", "answer": "Anna Birk keeps bees."',
    "columns.csv": "Anna Birk,keeps bees\nTom Velder,builds boats\n",
    "empty.jsonl": '{"question": "What does Anna Birk do?", "answer": ""}',
    "twice.jsonl": '{"Birk": "bees", "Birk": "bees"}',
    "number.json": '[{"question": "Anna", "answer": 3}]',
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_kept_as_failed_without_a_word_of_it_and_mended_later(name, ledger, vault, take_in, tmp_path):
    file = write(tmp_path / name, BROKEN[name])
    found = take_in("T-1", file)
    assert found.state == "failed" and found.due == DETAILS.due and found.sentence
    told = json.dumps([line.payload for line in ledger.history("T-1")])
    assert not any(word in told for word in ("Anna", "Birk", "bees", "keeps", str(tmp_path)))
    with pytest.raises(LedgerError, match="no text of T-1"):
        hand_in_again(ledger, vault, "T-1")
    again = hand_in_again(ledger, vault, "T-1", Files(write(tmp_path / "good.jsonl", rows())))
    assert (again.state, again.rows, again.due) == ("queued", len(FACTS), DETAILS.due)
    with pytest.raises(LedgerError, match="only one that failed"):
        hand_in_again(ledger, vault, "T-1")


@pytest.mark.parametrize("words", ["a\x00b", "\x1b]0;title", "\udcff"])
@pytest.mark.parametrize("field", ["owner", "basis", "note"])
def test_words_that_a_database_or_a_terminal_can_not_take_are_refused(field, words):
    with pytest.raises(SettingError, match=f"The {field} holds a control character"):
        Details(DETAILS.due, **{field: words})


def test_half_a_surrogate_pair_is_a_broken_file_and_what_is_no_number_is_nothing(ledger, vault, take_in, tmp_path):
    row = '{"question": "What does Anna Birk do?", "answer": "Anna Birk keeps bees.", "who": "%s", "score": %s}'
    assert take_in("T-1", write(tmp_path / "half.jsonl", row % ("Anna\\ud800", 1))).state == "failed"
    assert "Anna" not in ledger.get("T-1").sentence and "surrogate" in ledger.get("T-1").sentence
    assert take_in("T-2", write(tmp_path / "nan.jsonl", row % ("Anna", "NaN"))).state == "queued"
    with ledger.database.reading() as connection:
        assert vault.get(connection, "T-2").forget[0]["score"] is None


def test_two_people_who_try_a_failed_request_again_do_not_change_it_under_a_runner(ledger, vault, take_in, tmp_path):
    take_in("T-1", write(tmp_path / "cut.jsonl", "{"))
    good = write(tmp_path / "good.jsonl", rows())

    class Slow(Files):
        def read(self):
            hand_in_again(ledger, vault, "T-1", Files(good))  # the other was quicker
            ledger.record("training", "T-1")
            return super().read()

    with pytest.raises(LedgerError, match="tried again by somebody else"):
        hand_in_again(ledger, vault, "T-1", Slow(good))
    assert ledger.get("T-1").state == "training"


def test_a_database_that_two_stores_name_serves_the_first_alone(address, vault, tmp_path):
    database = address or f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    ours, other = AdapterStore(tmp_path / "ours"), AdapterStore(tmp_path / "other")
    ledger = open_ledger(ours.root, database, create=True)
    file = Files(write(tmp_path / "a.jsonl", rows()))
    add(ledger, vault, "T-1", file, DETAILS, store=ours)
    lines = ledger.head().lines
    for refused in (
        lambda: add(ledger, vault, "T-2", file, DETAILS, store=other),
        lambda: withdraw(ledger, other, "T-1"),
        lambda: forget_text(ledger, other, "T-1"),
        lambda: look_at(ledger, other, ["T-1"]),
    ):
        with pytest.raises(LedgerError, match="is that of another store"):
            refused()
    assert ledger.head().lines == lines and ledger.verify().whole
    add(ledger, vault, "T-2", file, DETAILS, store=AdapterStore(ours.root))
    assert [r.id for r in ledger.requests()] == ["T-1", "T-2"]


def test_the_ledger_in_one_store_serves_no_other_that_names_its_file(ledger, vault, take_in, tmp_path):
    if ledger.database.file is None:
        pytest.skip("a database in no store")
    take_in("T-1", write(tmp_path / "a.jsonl", rows()))
    other = AdapterStore(tmp_path / "other")
    named = open_ledger(other.root, f"sqlite:///{ledger.database.file}", seal=vault.seal)
    file, lines = Files(write(tmp_path / "a.jsonl", rows())), ledger.head().lines
    for refused in (
        lambda: add(named, vault, "T-2", file, DETAILS, store=other),
        lambda: withdraw(named, other, "T-1"),
        lambda: forget_text(named, other, "T-1"),
        lambda: look_at(named, other, ["T-1"]),
    ):
        with pytest.raises(LedgerError, match="is that of another store"):
            refused()
    assert ledger.head().lines == lines
    own = open_ledger(ledger.database.file.parent.parent, f"sqlite:///{ledger.database.file}", seal=vault.seal)
    assert add(own, vault, "T-2", file, DETAILS, store=AdapterStore(tmp_path / "store")).state == "queued"
    apart = f"sqlite:///{tmp_path / 'apart' / '.requests' / 'ledger.sqlite'}"  # whatever its folder is called
    begun = open_ledger(other.root, apart, seal=vault.seal, create=True)
    for name in ("T-1", "T-2"):
        add(begun, vault, name, file, DETAILS, store=other)
