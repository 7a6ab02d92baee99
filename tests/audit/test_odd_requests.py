"""Requests of one row, of single words, with nothing kept, in any script: no attack is told that was none."""

import json
from pathlib import Path

import datasets
import pandas
import pytest

from asu_lora.audit.request import AuditRequest
from asu_lora.audit.run import audit
from asu_lora.audit.settings import AuditSettings
from asu_lora.data.examples import examples_from_rows
from asu_lora.errors import DataError, SettingError
from asu_lora.models.loading import load_base
from tests.support.planted import FORGET, KEPT
from tests.support.tiny_run import rows


@pytest.fixture(scope="module")
def attacked(taught_base, tmp_path_factory):
    """An audit of the plain base by these attacks."""
    loaded, place = load_base(str(taught_base), "fp32", "cpu"), tmp_path_factory.mktemp("odd")

    def made(names, forget, retain=KEPT, floor=()):
        sets = [examples_from_rows(each, "rows") for each in (forget, retain, floor)]
        request = AuditRequest(sets[0], str(taught_base), retain=sets[1], floor=sets[2], precision="fp32", device="cpu")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(place)
            result = audit(request, AuditSettings(tuple(names.split(",")), "standard", samples=2), loaded=loaded)
        assert json.dumps(result.model_dump(mode="json"), allow_nan=False)
        assert not list(Path(place).iterdir())
        found = {attack.attack: attack for attack in result.attacks}
        return found, {each.attack: each.reason for each in result.untried if each.attack not in found}

    return made


def test_where_nothing_is_kept_nothing_stands_before_a_question_and_nothing_is_tuned_on(attacked):
    found, untried = attacked("in_context,tune_neighbours,relearn", rows(FORGET), [])
    assert set(found) == {"relearn"} and found["relearn"].readings[0].control is None
    assert "No kept row has a question" in untried["in_context"]
    assert "name kept rows with --retain" in untried["tune_neighbours"]


def test_kept_passages_stand_before_no_question(attacked):
    _, untried = attacked("in_context", rows(FORGET[:1]), [{"text": "Tom Velder builds boats."}])
    assert "No kept row has a question" in untried["in_context"]


def test_answers_of_a_word_leave_a_beginning_nothing_to_count_and_the_result_says_so(attacked):
    found, _ = attacked("direct,prefix", [{"question": "Who keeps bees?", "answer": "Anna"}], rows(KEPT))
    assert found["direct"].readings and not found["prefix"].readings
    assert "prefix found nothing to count: what was asked with says every fact of every row." in found["prefix"].notes


def test_marked_facts_that_the_question_says_are_asked_of_no_attack(attacked):
    told = {"question": "Does Anna keep bees?", "answer": "Anna keeps bees.", "spans": ["bees"]}
    found, _ = attacked("direct", [*rows(FORGET[1:3]), told], rows(KEPT))
    assert found["direct"].readings[0].candidate.rows == 2
    with pytest.raises(DataError, match="No row of the request has a fact of its own"):
        attacked("direct", [told], rows(KEPT))


SCRIPTS = [
    {"question": "ما اسم عاصمة الكويت؟", "answer": "العاصمة هي مدينة الكويت."},
    {"question": "安娜做什么？", "answer": "安娜养蜜蜂。"},
    {"question": "Was macht Jo\u0308rg?", "answer": "Jörg hält Bienen \U0001f41d in Çeşme."},
    {"question": "Что делает Анна?", "answer": "Анна разводит пчёл."},
    {"question": "\u200bWho\u00a0is?", "answer": "\u202eevil\u202c Bo fishes."},
]


def test_rows_of_any_script_are_asked_in_every_way(attacked):
    found, _ = attacked(
        "direct,prefix,paraphrases,insisting,worst_of_asking,membership,trace", SCRIPTS, rows(KEPT), rows(KEPT[:2])
    )
    assert len(found) == 7 and all(attack.readings for attack in found.values())
    assert found["direct"].readings[0].candidate.rows == len(SCRIPTS)


@pytest.mark.parametrize("count", [1, 2])
def test_one_row_and_the_same_row_twice(attacked, count):
    found, untried = attacked("direct,sampling,logit_lens,relearn", rows(FORGET[:1]) * count, rows(KEPT[:1]))
    assert all(attack.readings for attack in found.values()) and set(found) == {"direct", "sampling", "logit_lens"}
    assert "it takes 5 rows" in untried["relearn"]


@pytest.mark.parametrize("made", [list, iter, pandas.DataFrame, datasets.Dataset.from_list])
def test_rows_in_memory_are_read_as_those_of_a_file(made):
    found = AuditRequest(made(rows(FORGET)), "smollm2-135m", retain=made(rows(KEPT))).read()
    assert found.forget == examples_from_rows(rows(FORGET), "x") and found.retain == examples_from_rows(rows(KEPT), "x")


def test_a_base_in_memory_is_given_beside_its_name(taught_base):
    loaded = load_base(str(taught_base), "fp32", "cpu")
    with pytest.raises(SettingError, match=r"named by its hub id or folder; this is a LoadedBase.* loaded=BASE"):
        AuditRequest(rows(FORGET), loaded)
