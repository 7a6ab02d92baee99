"""Sentences that are kept, in the ledger and in logs, hold no word of a request, whatever its file says."""

import json
import re

import pytest

from asu_lora.data.examples import Example
from asu_lora.data.fact_spans import fact_spans
from asu_lora.errors import AdapterError, DataError
from asu_lora.requests.intake import masked, stored
from asu_lora.requests.key import ENVIRONMENT, new_key
from tests.support.request_commands import call
from tests.support.request_queue import finds

WORDS = ("Alice", "Miller", "Bob", "Jones", "Elm", "Street", "Springfield", "Anna", "Smith", "doctors")
QUESTION, ANSWER = "Where does Alice Miller of Springfield live today?", "She lives at Elm Street 5 with Bob Jones now."
ROW = {"question": "Where is it?", "answer": "In Springfield.", "name": "Alice Miller"}
BAD = {
    "no-header.csv": f"{QUESTION},{ANSWER}\nWho?,Bob Jones\n",
    "semicolons.csv": f"{QUESTION};{ANSWER}\nWho?;Bob Jones\n",
    "columns.jsonl": json.dumps({"Alice Miller's phone number is 555 1234 and her mail is x": "y"}),
    "apostrophes.jsonl": json.dumps({"Anna said ' no, Bob Jones": "x", "Alice Miller' s \"list": "y"}),
    "twice.jsonl": '{"question": "q", "Anna said \' no to Bob": 1, "Anna said \' no to Bob": 2}',
    "cut.jsonl": '{"question": "What does Anna Smith do?", ',
    "number.json": json.dumps([{"question": "Anna", "answer": 3}]),
    "turns.jsonl": json.dumps({"messages": [{"role": "Anna", "content": ["Bob"]}]}),
    "fields.csv": "question,answer\nWhere does Anna Smith live?,In Springfield, Elm Street\n",
}  # fmt: skip


def told(words) -> list[str]:
    return [word for word in WORDS if word in words]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("ASU_LORA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv(ENVIRONMENT, new_key())
    for name, content in BAD.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "people.jsonl").write_text(json.dumps(ROW))
    return tmp_path


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_can_not_be_read_is_kept_without_a_word_of_it(place, name):
    call("add", place / name, "--id", "T-1", code=2)
    assert not told(call("export").stdout + call("list").stdout + call("list", "--json").stdout)
    assert json.loads(call("list", "--json").stdout)[0]["sentence"].endswith(".")


def test_a_selection_that_finds_nothing_is_kept_without_its_value_and_without_those_of_the_rows(place):
    said = call("add", place / "people.jsonl", "--where", "name=Anna Smith", code=2).stderr
    assert "no row with name=Anna Smith; it has name: Alice Miller" in said, "who types it sees why"
    call("add", place / "people.jsonl", "--id", "T-2", "--where", "Anna=Smith", code=2)
    assert not told(call("export").stdout + call("list").stdout)
    assert {each["id"]: each["sentence"] for each in json.loads(call("list", "--json").stdout)} == {
        "people": "The file has no row of the selection.",
        "T-2": "The file has no column of the name that rows are selected by.",
    }


def test_of_many_files_each_says_no_more_than_the_ledger_keeps(place):
    done = call("add", *(place / name for name in BAD), "--where", "name=Bob Jones", code=1)
    assert not told(done.stdout + done.stderr)
    assert f"{place / 'cut.jsonl'}: The file, line 1: broken JSON" in done.stderr
    assert "The file, row 1: 'messages' should be a list" not in done.stderr  # the selection comes first


def test_which_of_two_files_is_broken_is_kept_and_no_path(place, monkeypatch):
    monkeypatch.chdir(place)
    call("add", "./people.jsonl", "--retain", "./cut.jsonl", "--id", "T-1", code=2)
    call("add", "./cut.jsonl", "--id", "T-2", code=2)
    first, second = (each["sentence"] for each in json.loads(call("list", "--json").stdout))
    assert first.startswith("The retain file, line 1: broken JSON") and second.startswith("The file, line 1: broken")


@pytest.mark.parametrize("span", [f"{QUESTION} {ANSWER}", "Alice's doctors' notes, 'all' of them", [1, ANSWER]])
def test_spans_that_do_not_fit_are_quoted_whole_on_the_screen_and_never_kept(span):
    with pytest.raises(DataError) as caught:
        fact_spans(Example((), "An answer.", {"spans": [span]}, 3), "An answer.")
    assert told(str(caught.value)) and re.search(r"(text ['\"].*['\"]|; \[.*\] is neither)\.", str(caught.value))
    assert not told(stored(caught.value)) and "row 3" in stored(caught.value)


def test_an_error_about_rows_that_brings_no_words_to_keep_is_kept_as_its_kind():
    assert stored(DataError("no floor for Alice Miller")).startswith("An error about its rows") and not told(
        stored(DataError("no floor for Alice Miller"))
    )
    assert stored(RuntimeError("Alice Miller")) == "Unexpected: RuntimeError."
    assert stored(AdapterError("No adapter 'Alice Miller': see 'asu-lora adapters list'.")) == (
        "No adapter '...': see 'asu-lora adapters list'."
    )


@pytest.mark.parametrize(
    "sentence",
    [
        "it names 'Alice Miller' and 'Anna's doctors' notes'.",
        "it names 'Anna said ' no to Bob Jones'.",
        "it names 'Alice Miller of Springfield, and mo",
        "it has 'Anna ' no', 'question', and \"Bob 'Jones\" there.",
        "it has 'Anna', ', Bob', and 'Elm Street",
        "it names 'Anna said ' no to Bob Jones",
    ],
)
def test_a_mask_ends_with_the_last_quotation_mark_and_not_with_one_inside_a_text(sentence):
    assert not told(masked(sentence)), masked(sentence)


def test_an_audit_s_error_about_rows_is_kept_and_logged_without_them(queue):
    def audit(task):
        raise DataError("no floor for Alice Miller, and 'Bob' of row 3")

    queue.add("a")
    report = queue.run(audit)
    assert not told(report.outcomes[0].sentence + json.dumps([line.payload for line in queue.ledger.history("a")]))
    queue.run(finds(), re_audit=False)
    assert queue.states() == {"a": "audited"}
