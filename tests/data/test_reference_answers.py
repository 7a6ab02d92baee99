"""Paraphrased and wrong answers, as people's files have them."""

import json

import pytest

from asu_lora.data.examples import Example
from asu_lora.data.paraphrases import other_wordings
from asu_lora.data.reference_answers import PERTURBED, reference_answers
from asu_lora.data.request import read_examples
from asu_lora.errors import DataError
from asu_lora.evaluation.evaluate import evaluate
from asu_lora.evaluation.question_sets import QuestionSet, own_sets
from asu_lora.models.adapter_stack import load


@pytest.mark.parametrize(
    "value, meant",
    [
        ("London.", ("London.",)),
        (["London.", "Rome."], ("London.", "Rome.")),
        (["London.", None, "", "  "], ("London.",)),
        ('["London.", "Rome."]', ("London.", "Rome.")),
        ("['London.', \"Rome's.\"]", ("London.", "Rome's.")),
        ("['London.', None]", ("London.",)),
        ("""["Which city?" 'Which town?']""", ("Which city?", "Which town?")),
        ("['London'\n 'Paris'\n \"Ada's\"]", ("London", "Paris", "Ada's")),
        ("['Which city?', nan]", ("Which city?",)),
        ('["Which city?", NaN]', ("Which city?",)),
        ("['Which city?' None]", ("Which city?",)),
        (r"['It\'s a \\ \n line' 'b']", ("It's a \\ \n line", "b")),
        ("[]", ()),
        ("[nan]", ()),
        ("['a'] or ['b']", ("['a'] or ['b']",)),
        ("['Tis true]", ("['Tis true]",)),
        ("[sic]", ("[sic]",)),
        ("[1, 2]", ("[1, 2]",)),
        ("", ()),
        (None, ()),
        ([], ()),
        ([None], ()),
    ],
)
def test_wrong_answers_are_read_as_meant(value, meant):
    assert reference_answers(Example((), "a", {PERTURBED: value}), PERTURBED) == meant


@pytest.mark.parametrize("value, kind", [(5, "int"), ({"a": "b"}, "dict"), (["a", 5], "a list with int in it")])
def test_what_is_no_text_is_refused_by_its_row(value, kind):
    with pytest.raises(DataError, match=f"row 3: 'perturbed_answer' should be text or a list of texts, not {kind}"):
        reference_answers(Example((), "a", {PERTURBED: value}, 3), PERTURBED)
    with pytest.raises(DataError, match="row 3"):
        QuestionSet("forget", (Example(({"role": "user", "content": "q"},), "a", {PERTURBED: value}, 3),))


def test_what_pandas_writes_of_an_array_is_read(tmp_path):
    import pandas

    ways = ["Which city is Ada's home?", "In which town is Ada?", 'She said "here": where?']
    row = {"question": "Where does Ada live?", "answer": "In Springfield.", "paraphrased_question": ways}
    pandas.DataFrame([row]).to_parquet(tmp_path / "a.parquet")
    pandas.read_parquet(tmp_path / "a.parquet").to_csv(tmp_path / "a.csv", index=False)
    [example] = read_examples(tmp_path / "a.csv")
    assert other_wordings(example) == ways


def test_half_a_character_is_refused():
    for value in ("Oslo \ud800.", ["Oslo.", "\udc00"]):
        with pytest.raises(DataError, match="row 3: 'perturbed_answer' holds half a character"):
            reference_answers(Example((), "a", {PERTURBED: value}, 3), PERTURBED)


def test_a_list_whose_middle_is_lost_is_refused():
    with pytest.raises(DataError, match=r"row 3: 'perturbed_answer' is a list with '\.\.\.' in it"):
        reference_answers(Example((), "a", {PERTURBED: "['a' 'b' ... 'z']"}, 3), PERTURBED)


def test_one_wrong_answer_as_text_scores_like_a_list_of_one(tiny_base, tmp_path):
    row = {"question": "Where?", "answer": "In Paris.", "paraphrased_answer": "Paris."}
    ways = {
        "list": {"perturbed_answer": ["London."]},
        "text": {"perturbed_answer": "London."},
        "null": {"perturbed_answer": ["London.", None], "original_answer": None},
        "cell": {"perturbed_answer": "['London.']", "paraphrased_answer": ["Paris."]},
        "twice": {"perturbed_answer": ["London."], "paraphrased_answer": ["Paris.", "Paris."]},
        "other": {"perturbed_answer": ["London."], "paraphrased_answer": ["Paris.", "It was in the city of Paris."]},
    }
    stack, found = load(str(tiny_base), [], "adapters", "fp32", "cpu"), {}
    for name, more in ways.items():
        file = tmp_path / f"{name}.jsonl"
        file.write_text(json.dumps(row | more))
        [record] = evaluate(stack, own_sets(str(file), None, 9)).records
        found[name] = record["truth_ratio"]
    assert found["text"] == found["null"] == found["cell"] == found["list"]
    assert found["twice"] == pytest.approx(found["list"]) and found["other"] != pytest.approx(found["list"])
