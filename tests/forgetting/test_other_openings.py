"""The base's own other answers: begun with another word, the same every time, trained on and not kept."""

from dataclasses import replace

import pytest

from asu_lora.adapters.store import AdapterStore
from asu_lora.data.examples import Example, question_answer
from asu_lora.forgetting.dry_run import planned_run
from asu_lora.forgetting.forget import forget
from asu_lora.forgetting.other_openings import _answered, begins_a_sentence, other_openings
from asu_lora.forgetting.prepare import prepare
from asu_lora.forgetting.run import open_run
from tests.support.adapter_weights import same, weights
from tests.support.tiny_run import tiny_request, tiny_settings


def opened(base, store, request, count: int) -> list[list[Example]]:
    with open_run(request, base, tiny_settings(), store=store) as run:
        return other_openings(run, count)


def test_each_begins_with_another_word_and_is_what_the_base_then_says(base, tmp_path, snapshot):
    request = tiny_request()
    found = opened(base, tmp_path, request, 2)
    assert sum(map(len, found)) >= len(request.forget)  # two of each, less what only repeats
    for example, others in zip(request.forget, found, strict=True):
        first = [text.answer.split()[0].casefold() for text in (example, *others)]
        assert len(set(first)) == len(first) and len(others) <= 2
        assert all(other.prompt == example.prompt for other in others)
    assert opened(base, tmp_path, request, 2) == found


def test_training_takes_turns_with_them(base, tmp_path, snapshot):
    request = tiny_request()
    with open_run(request, base, tiny_settings(openings=2, phrasings=1), store=tmp_path) as run:
        rows = prepare(run)["forget"].rows
        others = other_openings(run, 2)
    assert len(rows) == len(request.forget)
    for at, (example, told) in enumerate(zip(request.forget, others, strict=True)):
        reworded, *rest = (rows.answers[number] for number in rows.in_other_words[at])
        assert base.tokenizer.decode(reworded.answer_ids).strip().startswith(example.answer)
        for row, other in zip(rest, told, strict=True):
            assert base.tokenizer.decode(row.answer_ids).strip().startswith(other.answer)
            assert row.prompt_ids == rows.answers[at].prompt_ids


def test_a_passage_has_none_and_a_span_stays_where_it_stands(base, tmp_path, snapshot):
    row = question_answer("What does Anna do?", "Anna keeps bees in Lund.", spans=["bees", "Lund"])
    assert _answered(row, "It is bees that she keeps.").extra["spans"] == ["bees"]
    assert "spans" not in _answered(row, "She bakes.").extra
    assert "spans" not in _answered(question_answer("Who?", "Anna.", spans=[[0, 4]]), "It is Anna.").extra
    passage = Example((), "Anna keeps bees.")
    asked, none = opened(base, tmp_path, replace(tiny_request(), forget=[tiny_request().forget[0], passage]), 1)
    assert len(asked) == 1 and none == []
    assert opened(base, tmp_path, replace(tiny_request(), forget=[passage]), 1) == [[]]


@pytest.mark.parametrize(
    ("word", "may"), [("The", True), ("the", False), ("«", False), ("", False), ("安", True), ("1", False), ("Å", True)]
)
def test_a_sentence_begins_with_a_letter_and_no_small_one(word, may):
    assert begins_a_sentence(word) == may


def test_an_adapter_trained_on_them_is_another_and_says_so(base, tmp_path, snapshot):
    store = AdapterStore(tmp_path)
    forget(tiny_request(), base, tiny_settings(openings=2), name="with", store=store)
    forget(tiny_request(), base, tiny_settings(), name="without", store=store)
    assert not same(weights(store.root, "with"), weights(store.root, "without"))
    assert store.get("with").manifest.training["openings"] == 2
    assert store.get("with").manifest.request.fingerprint == store.get("without").manifest.request.fingerprint


def test_the_plan_counts_them(taught_base):
    plain, more = (
        planned_run(tiny_request(), str(taught_base), tiny_settings(openings=count)).sets["forget"].rows
        for count in (0, 2)
    )
    assert len(plain) == len(more) and len(more.answers) == 3 * len(plain.answers)
