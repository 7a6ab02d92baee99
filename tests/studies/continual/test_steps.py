"""A history's requests in their order, and the methods by name."""

import pytest

from asu_lora.errors import DataError, SettingError
from asu_lora.studies.continual.steps import read_steps
from asu_lora.studies.methods import method_configs
from tests.support.history import write
from tests.support.tiny_run import FACTS, rows, tiny_settings


def test_one_file_splits_by_a_column_and_nothing_that_was_forgotten_is_kept(steps):
    assert [step.name for step in steps] == ["001-history-1", "002-history-2", "003-history-3"]
    questions = [[example.question for example in step.request.forget] for step in steps]
    assert questions == [[row["question"] for row in rows(FACTS[i : i + 2])] for i in (0, 2, 4)]
    for number, step in enumerate(steps, start=1):
        kept = [example.question for example in step.request.retain]
        assert kept == [row["question"] for row in rows(FACTS[2 * number :])]
    assert [example.row for example in steps[1].request.forget] == [3, 4]


def test_folders_come_in_the_order_of_their_names(tmp_path):
    for number in (10, 9, 1):
        write(tmp_path / f"ticket {number}.jsonl", rows(FACTS[number : number + 1]))
    (tmp_path / "README.md").write_text("no request")
    steps = read_steps([tmp_path])
    assert [step.name for step in steps] == ["001-ticket-1", "002-ticket-9", "003-ticket-10"]
    assert [step.request.forget[0].question for step in steps] == [rows()[i]["question"] for i in (1, 9, 10)]
    assert len(steps[0].request.retain) > 100 and steps[0].request.retain_source.startswith("built-in")
    assert [step.name for step in read_steps([tmp_path], most=2)] == ["001-ticket-1", "002-ticket-9"]


def test_a_kept_question_goes_whatever_its_answer_and_passages_go_by_their_text(tmp_path):
    forget_file = write(tmp_path / "f.jsonl", [{"question": "Who?", "answer": "Ida."}, {"text": "Ida was here."}])
    retain = write(
        tmp_path / "r.jsonl",
        [{"question": "who? ", "answer": "Ida herself."}, {"text": "Ida was there."}, {"text": "ida was  here."}],
    )
    assert [e.answer for e in read_steps([forget_file], retain)[0].request.retain] == ["Ida was there."]


def test_histories_that_cannot_be_read(tmp_path, files):
    (tmp_path / "empty").mkdir()
    for sources, by, said in (
        ([tmp_path / "empty"], None, "holds no requests"),
        ([], None, "There are no requests"),
        ([files[0]], "nobody", "has no column 'nobody'"),
        ([tmp_path / "none.jsonl"], None, "There is no file"),
    ):
        with pytest.raises(DataError, match=said):
            read_steps(sources, by=by)


@pytest.mark.parametrize("text", ["ASU", "ASU_XX", "ASU_KL=much", "ASU_KL=-1", ",", "ASU_KL,asu_kl", "Base"])
def test_methods_that_are_none(text):
    with pytest.raises(SettingError):
        method_configs(text, tiny_settings())


def test_methods_by_name():
    found = method_configs("asu_kl, GA_GD=1e-4,ASU+IDK_NONE", tiny_settings())
    assert [(name, c.objective, c.retain_loss, c.lr) for name, c in found.items()] == [
        ("ASU_KL", "asu", "kl", 2e-3),
        ("GA_GD", "ga", "gd", 1e-4),
        ("ASU+IDK_NONE", "asu+idk", "none", 2e-3),
    ]
    assert list(method_configs(None, tiny_settings(objective="npo"))) == ["NPO_KL-ANSWERS"]
