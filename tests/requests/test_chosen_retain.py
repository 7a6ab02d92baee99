"""``add --retain auto``: the rows to keep are chosen as a request comes in, and sealed beside it."""

import json

import pytest

from asu_lora.data.examples import Example, as_row, examples_from_rows
from asu_lora.data.request import ForgetRequest
from asu_lora.data.retain_pool import RetainPool
from asu_lora.models.loading import load_base
from asu_lora.requests.chosen_retain import RetainChooser
from asu_lora.requests.key import ENVIRONMENT, find_key, new_key
from asu_lora.requests.ledger.ledger import open_ledger
from asu_lora.requests.text_vault import TextVault
from asu_lora.retain.choose import choose_rows
from tests.support.listener import Listener
from tests.support.request_commands import call
from tests.support.tiny_run import FACTS, rows

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Who paints?"},
    {"role": "assistant", "content": "Many do."},
    {"role": "user", "content": "Name one."},
    {"role": "assistant", "content": "Ada Mohn does."},
]
POOL = [*rows(FACTS), {"text": "Herons stand still for hours."}, {"messages": TALK}]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("ASU_LORA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv(ENVIRONMENT, new_key())
    (tmp_path / "pool.jsonl").write_text("\n".join(map(json.dumps, POOL)))
    for number in range(2):
        (tmp_path / f"t{number}.jsonl").write_text("\n".join(map(json.dumps, rows(FACTS[number : number + 1]))))
    return tmp_path


def test_a_row_is_written_so_that_it_gives_that_example_alone():
    examples = examples_from_rows(POOL, "pool")
    assert len(examples) == len(POOL) + 1  # two turns of the talk are answers
    for example in examples:
        assert examples_from_rows([as_row(example)], "again") == [example]
    assert as_row(Example((), "A passage.", {"who": "x"})) == {"text": "A passage."}


def test_what_is_sealed_is_what_a_forget_run_would_choose(tiny_base):
    base, request = load_base(str(tiny_base), "fp32", "cpu"), rows(FACTS[:2])
    pool, heard = RetainPool(tuple(examples_from_rows(POOL, "pool")), wanted=5), Listener()
    sealed = RetainChooser(base, pool, heard).rows_for(request, "request")
    wanted = choose_rows(base, examples_from_rows(request, "request"), pool)
    assert list(ForgetRequest.from_rows(request, sealed).retain) == list(wanted.rows) and len(sealed) == 5
    assert (
        heard.stages == ["Comparing the pool with the request", "Choosing retain rows"]
        and "were chosen of" in heard.notes[0]
    )


def test_rows_of_the_pool_that_no_run_can_train_on_are_left_out_and_told_once(tiny_base):
    broken = {"question": "word " * 3000, "answer": "Longer than any row may be."}
    base, heard = load_base(str(tiny_base), "fp32", "cpu"), Listener()
    chooser = RetainChooser(base, RetainPool(tuple(examples_from_rows([broken, *POOL], "pool")), wanted=50), heard)
    for number in range(2):
        sealed = chooser.rows_for(rows(FACTS[number : number + 1]), "request")
        assert sealed and broken not in sealed
    [told] = [note for note in heard.notes if "can't be trained on" in note]
    assert told.startswith("1 of the retain pool's")


def test_each_of_several_files_gets_rows_of_its_own_and_needs_no_pool_later(place, tiny_base):
    auto = ("--retain", "auto", "--retain-pool", place / "pool.jsonl", "--retain-rows", 4)
    done = call("add", place / "t0.jsonl", place / "t1.jsonl", *auto, "--base", tiny_base, "--precision", "fp32")
    assert done.stdout.endswith("2 added, 0 not.\n") and done.stderr.count("were chosen of") == 2
    (place / "pool.jsonl").unlink()
    ledger, vault = open_ledger(place / "store"), TextVault(find_key().secret)
    for number in range(2):
        with ledger.database.reading() as connection:
            text = vault.get(connection, f"t{number}")
        assert text.forget == rows(FACTS[number : number + 1]) and len(text.retain) == 4
        assert text.forget[0] not in text.retain and all(
            row in map(as_row, examples_from_rows(POOL, "")) for row in text.retain
        )
        told = ledger.history(f"t{number}", ["queued"])[0].payload
        assert (told["retain_rows"], told["retain_pool_rows"], told["retain_by"]) == (4, len(POOL) + 1, "base")
    assert "t0.jsonl is what was handed in" in call("show", "t0", "--is-text", place / "t0.jsonl").stdout
    assert "is not what was handed in" in call("show", "t0", "--is-text", place / "t1.jsonl", code=3).stdout
    kept = place / "t1.jsonl"
    assert "is not what" in call("show", "t0", "--is-text", place / "t0.jsonl", "--retain", kept, code=3).stdout


def test_a_request_of_which_nothing_in_the_pool_can_be_kept_is_kept_as_failed(place, tiny_base):
    own = ("--retain", "auto", "--retain-pool", place / "t0.jsonl", "--base", tiny_base, "--precision", "fp32")
    told = call("add", place / "t0.jsonl", *own, code=2).stderr
    assert "No row of the retain pool can be kept" in told and "t0 is kept as failed" in told
    auto = ("--retain", "auto", "--retain-pool", place / "pool.jsonl", "--retain-rows", 4)
    assert "go with --file" in call("retry", "t0", *auto, code=2).stderr
    call("retry", "t0", "--file", place / "t0.jsonl", *auto, "--base", tiny_base, "--precision", "fp32")
    told = open_ledger(place / "store").history("t0", ["queued"])[-1].payload
    assert (told["retain_rows"], told["retain_pool_rows"]) == (4, len(POOL) + 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--retain", "auto"], "--retain auto needs --retain-pool"),
        (["--retain-pool", "{pool}"], "say --retain auto, or leave it out"),
        (["--retain", "auto", "--retain-pool", "{pool}.gone"], "There is no file"),
        (["--retain", "auto", "--retain-pool", "{pool}", "--base", "{pool}.gone"], "pool.jsonl.gone"),
    ],
)
def test_a_choice_that_can_not_be_made_takes_nothing_in(place, words, said):
    words = [word.format(pool=place / "pool.jsonl") for word in words]
    assert said in call("add", place / "t0.jsonl", *words, code=2).stderr
    assert not (place / "store").exists()
