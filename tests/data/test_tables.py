"""Tables as spreadsheets write them: what stands between the fields, whatever stands in them."""

import numpy
import pandas
import pytest

from asu_lora.data.reading import read_rows
from asu_lora.data.reference_answers import reference_answers
from asu_lora.data.request import ForgetRequest
from asu_lora.errors import DataError
from asu_lora.evaluation.question_sets import own_sets


@pytest.mark.parametrize("start", ["", "\ufeff", "sep=;\n"])
def test_a_table_of_a_spreadsheet_with_semicolons_is_read(tmp_path, start):
    file = tmp_path / "a.csv"
    file.write_text(f'{start}question;"answer"\nWho, where?;"It is 1; yes."\n')
    assert read_rows(file) == [{"question": "Who, where?", "answer": "It is 1; yes."}]
    with file.open("a") as more:
        more.write("Who?\n")
    with pytest.raises(DataError, match=rf"line {3 + start.startswith('sep')}: 1 fields .* with semicolons in it"):
        read_rows(file)


def test_a_table_with_tabs_is_read_whatever_its_ending(tmp_path):
    (tmp_path / "a.csv").write_text("question\tanswer\nWho?\tAnna; really.\n")
    (tmp_path / "a.tsv").write_text("question,answer\nWho?,Anna.\n")
    assert read_rows(tmp_path / "a.csv") == [{"question": "Who?", "answer": "Anna; really."}]
    assert read_rows(tmp_path / "a.tsv") == [{"question": "Who?", "answer": "Anna."}]


def test_empty_rows_of_a_spreadsheet_are_passed_over(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("question;answer;id\nWho?;Anna.;1\n;;\nWhere?;Here.;\n; ;\n;;\n")
    assert [row["answer"] for row in read_rows(file)] == ["Anna.", "Here."]
    file.write_text("question,answer\n,\n,\n")
    with pytest.raises(DataError, match="holds no rows but 2 empty ones"):
        read_rows(file)
    file.write_text("question,answer\nWho?,\n")
    assert read_rows(file) == [{"question": "Who?", "answer": ""}]  # refused later, with its number


def test_one_column_of_text_may_have_anything_in_it(tmp_path):
    (tmp_path / "a.csv").write_text('text\n"One; two, three."\n')
    assert read_rows(tmp_path / "a.csv") == [{"text": "One; two, three."}]


@pytest.mark.parametrize("name", ["Name, Vorname", '"Name, Vorname"'])
def test_a_comma_in_a_column_s_name_parts_no_fields_of_a_table_with_semicolons(tmp_path, name):
    (tmp_path / "a.csv").write_text(f"id;question;answer;{name}\n1;Who?;Ann, really.;Berg, A\n")
    assert read_rows(tmp_path / "a.csv") == [
        {"id": "1", "question": "Who?", "answer": "Ann, really.", "Name, Vorname": "Berg, A"}
    ]
    (tmp_path / "b.csv").write_text('question,answer,"a;b"\nWho?,Ann; really.,x\n')
    assert read_rows(tmp_path / "b.csv") == [{"question": "Who?", "answer": "Ann; really.", "a;b": "x"}]


def test_a_data_frame_gives_the_rows_that_it_shows():
    """pandas has NaN where a cell is empty, and yields its columns' names."""
    frame = pandas.DataFrame(
        [
            {"question": "Who?", "answer": "Anna.", "perturbed_answer": ["Tom.", "Ida."], "spans": ["Anna"]},
            {"question": "Where?", "answer": "Here.", "language": "en"},
            {"text": "Anna keeps bees."},
        ]
    )
    frame.at[0, "perturbed_answer"] = numpy.array(["Tom.", "Ida."], dtype=object)  # as from_parquet has it
    request = ForgetRequest.from_rows(frame, frame.iloc[:0])
    assert request.forget == ForgetRequest.from_rows(frame.to_dict("records"), []).forget
    assert [row.answer for row in request.forget] == ["Anna.", "Here.", "Anna keeps bees."]
    assert [reference_answers(row, "perturbed_answer") for row in request.forget] == [("Tom.", "Ida."), (), ()]
    assert request.forget[0].extra["spans"] == ["Anna"] and request.forget[1].extra["spans"] is None


def test_selected_rows_that_are_evaluated_keep_the_numbers_of_the_file(tmp_path):
    (tmp_path / "a.csv").write_text("question,answer,task\nWho?,Anna.,1\nWhere?,Here.,2\nWhen?,Now.,2\n")
    (sets,) = own_sets(tmp_path / "a.csv", None, 9, {"task": "2"})
    assert [(row.question, row.row) for row in sets.examples] == [("Where?", 2), ("When?", 3)]
