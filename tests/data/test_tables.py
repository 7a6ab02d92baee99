"""Tables as spreadsheets write them: what stands between the fields, whatever stands in them."""

import pytest

from asu_lora.data.reading import read_rows
from asu_lora.errors import DataError


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
