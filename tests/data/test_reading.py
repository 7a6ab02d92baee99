"""Reading rows: every format gives the same rows, every broken file one sentence, and no copy is left behind."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asu_lora.data.reading import read_rows
from asu_lora.errors import DataError

ROWS = [
    {"question": "Who wrote it?", "answer": 'Anna "Ann" Berg, in 1907.'},
    {"question": "Wo\u2028lebt\u2029sie?", "answer": "In Köln\t(am Rhein),\nnear the bridge \N{BRIDGE AT NIGHT}."},
    {"question": "  And\x85then? ", "answer": "[Nothing], 'truly'; \\nothing\\."},
]


def as_lines(rows) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def as_array(rows) -> bytes:
    return json.dumps(rows, ensure_ascii=False, indent=1).encode()


def as_csv(rows, delimiter=",") -> bytes:
    import io

    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def as_parquet(rows) -> bytes:
    out = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out)
    return out.getvalue().to_pybytes()


WRITERS = {
    "a.jsonl": as_lines,
    "a.ndjson": as_lines,
    "lines.json": as_lines,  # as TOFU ships its files
    "array.json": as_array,
    "array.jsonl": as_array,
    "a.csv": as_csv,
    "UPPER.CSV": as_csv,
    "a.tsv": lambda rows: as_csv(rows, "\t"),
    "a.parquet": as_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path, name):
    (tmp_path / name).write_bytes(WRITERS[name](ROWS))
    assert read_rows(tmp_path / name) == ROWS
    assert read_rows(str(tmp_path / name)) == ROWS


@pytest.mark.parametrize("name", [name for name in WRITERS if "parquet" not in name])
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + WRITERS[name](ROWS))
    assert read_rows(tmp_path / name) == ROWS


def test_windows_line_ends_and_blank_lines(tmp_path):
    lines = tmp_path / "a.jsonl"
    lines.write_bytes(b"\r\n\r\n" + as_lines(ROWS).replace(b"\n", b"\r\n \t\r\n"))
    assert read_rows(lines) == ROWS
    table = tmp_path / "a.csv"
    table.write_bytes(b"question,answer\r\n\r\nWho?,Anna\r\n\r\nWhere?,Here\r\n")
    assert read_rows(table) == [{"question": "Who?", "answer": "Anna"}, {"question": "Where?", "answer": "Here"}]


def test_conversations_in_parquet_and_json(tmp_path):
    rows = [{"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Anna."}]}]
    for name in ("a.parquet", "array.json", "a.jsonl"):
        (tmp_path / name).write_bytes(WRITERS[name](rows))
        assert read_rows(tmp_path / name) == rows


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.fixed_dictionaries({"question": texts, "answer": texts}), min_size=1, max_size=4))
def test_any_text_comes_back_as_it_was(tmp_path, rows):
    for name in ("a.jsonl", "array.json", "a.parquet"):
        (tmp_path / name).write_bytes(WRITERS[name](rows))
        assert read_rows(tmp_path / name) == rows
    filled = [row for row in rows if "".join(row.values()).strip()]  # a table's empty rows are passed over
    for name in ("a.csv", "a.tsv"):
        (tmp_path / name).write_bytes(WRITERS[name](rows))
        assert not filled or read_rows(tmp_path / name) == filled


BROKEN = {
    "empty.jsonl": (b"", "holds no rows"),
    "blank.jsonl": (b"\n \r\n\n", "holds no rows"),
    "array.json": (b"[]", "holds no rows"),
    "header.csv": (b"question,answer\n", "holds no rows"),
    "nothing.csv": (b"", "holds no rows"),
    "third.jsonl": (b'{"a": 1}\n\n{"a": \n{"a": 2}\n', "line 3: broken JSON"),
    "cut.json": (b'[{"a": 1},\n {"a": 2},\n {"a"', "line 3: broken JSON"),
    "list.jsonl": (b'{"a": 1}\n["a"]\n', "line 2: expected an object"),
    "number.json": (b"12", "line 1: expected an object"),
    "inner.json": (b'[{"a": 1}, "b"]', "row 2: expected an object"),
    "deep.json": (b"[" * 200_000, "nested too deeply"),
    "deep.jsonl": (b'{"a": ' + b"[" * 200_000 + b"\n", "nested too deeply"),
    "digits.json": (b'[{"a": ' + b"1" * 5000 + b"}]", "can't be read"),
    "latin.jsonl": ('{"question": "Wo in Köln?"}\n'.encode("latin-1"), "not UTF-8 text"),
    "utf16.csv": ("question,answer\nWho?,Anna\n".encode("utf-16"), "not UTF-8 text"),
    "comma.csv": (b"question,answer\nWho?,Anna\nWhere?,Paris, France\n", "line 3: 3 fields where .* 2 columns"),
    "short.csv": (b"question,answer\nWho?,Anna\nWhere?\n", "line 3: 1 fields where .* 2 columns"),
    "short.tsv": (b"question\tanswer\nWho? Anna\n", "line 2: 1 fields where .* 2 columns.* tabs"),
    "quote.csv": (b'question,answer\nWho?,"Anna\n', "not a readable CSV"),
    "text.txt": (b"Who? Anna.", "no known ending"),
    "a.parquet": (b"PAR1 and then nothing of the kind PAR1", "not a readable Parquet"),
    "none.parquet": (b"", "not a readable Parquet"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_in_one_line(tmp_path, name):
    content, message = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_rows(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["a.jsonl", "array.json", "a.csv", "a.parquet"]), data=st.data())
def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path, name, data):
    content = bytearray(WRITERS[name](ROWS))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    (tmp_path / name).write_bytes(content)
    try:
        assert all(isinstance(row, dict) for row in read_rows(tmp_path / name))
    except DataError as error:
        assert "\n" not in str(error)


def test_a_passage_in_csv_may_be_long(tmp_path):
    passage = "A very long story, told slowly. " * 10_000
    (tmp_path / "a.csv").write_bytes(as_csv([{"text": passage}]))
    assert read_rows(tmp_path / "a.csv") == [{"text": passage}]
    assert csv.field_size_limit() == 131072  # the host program's own limit stands as it was


@pytest.mark.parametrize("source", ["nothing.jsonl", "no/such/file.csv", "/nowhere/at/all", "./owner/name", "plain"])
def test_a_missing_file_is_no_dataset(source):
    with pytest.raises(DataError, match="There is no file"):
        read_rows(source)


def test_folders_and_impossible_names_are_refused(tmp_path):
    with pytest.raises(DataError, match="is a folder"):
        read_rows(tmp_path)
    with pytest.raises(DataError, match="File name too long"):
        read_rows("x" * 5000 + ".jsonl")


def test_a_dataset_without_a_hub_is_refused_at_once(monkeypatch):
    """One quick try: datasets' own client would retry for most of a minute."""
    from huggingface_hub import constants

    tries = []

    class Nowhere:
        def head(self, url, timeout):
            tries.append(timeout)
            raise OSError("no route")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils.get_session", Nowhere)
    started = time.monotonic()
    with pytest.raises(DataError, match=r"no file owner/name, .* can't be reached"):
        read_rows("owner/name")
    assert len(tries) == 1 and tries[0] <= 5
    assert time.monotonic() - started < 5


def test_a_dataset_of_the_hub_goes_through_datasets(monkeypatch):
    import datasets

    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr("asu_lora.data.reading.hub_answers", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read_rows("locuslab/TOFU:forget01") == ROWS
    assert asked == [(("locuslab/TOFU", "forget01"), {"split": "train"})]
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: (_ for _ in ()).throw(ValueError("Two\nlines")))
    with pytest.raises(DataError, match=r"Two$"):
        read_rows("owner/name")


def test_reading_leaves_no_copy_anywhere(tmp_path):
    """A request is personal data: its rows must not outlive their file in a cache."""
    files, home = tmp_path / "files", tmp_path / "home"
    files.mkdir(), home.mkdir()
    for name in WRITERS:
        (files / name).write_bytes(WRITERS[name](ROWS))
    script = (
        "import sys; from asu_lora.data.reading import read_rows\n"
        "for name in sys.argv[1:]: assert len(read_rows(name)) == 3\n"
        "assert 'datasets' not in sys.modules and 'torch' not in sys.modules"
    )
    everywhere = {
        key: str(home) for key in ("HOME", "HF_HOME", "HF_DATASETS_CACHE", "XDG_CACHE_HOME", "TMPDIR", "ASU_LORA_CACHE")
    }
    subprocess.run(
        [sys.executable, "-c", script, *map(str, sorted(files.iterdir()))],
        check=True,
        env={**os.environ, **everywhere},
        cwd=files,
    )
    assert list(home.rglob("*")) == []
    assert sorted(path.name for path in files.iterdir()) == sorted(WRITERS)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted where Linux lists them")
def test_reading_parquet_starts_no_thread_that_would_abort_a_short_program(tmp_path):
    """A program that ends while one of Arrow's threads is being started dies of SIGABRT, one in eight under load."""
    (tmp_path / "a.parquet").write_bytes(WRITERS["a.parquet"](ROWS))
    script = (
        "import os, sys, pyarrow.parquet; from asu_lora.data.reading import read_rows\n"
        "before = set(os.listdir('/proc/self/task'))\n"
        "assert len(read_rows(sys.argv[1])) == 3 and set(os.listdir('/proc/self/task')) <= before"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.parquet")], check=True)


@pytest.mark.parametrize(
    "name, text",
    [
        ("f.jsonl", '{"question": "Who?", "answer": "Ann", "answer": "Bo"}'),
        ("f.json", '[{"question": "Who?", "answer": "Ann", "answer": "Bo"}]'),
        ("f.csv", "question,answer,answer\nWho?,Ann,Bo\n"),
    ],
)
def test_a_field_that_is_named_twice_is_refused(tmp_path, name, text):
    """Of two answers one would be lost in silence, and what it says never forgotten."""
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match="'answer' twice"):
        read_rows(tmp_path / name)


def test_a_column_that_parquet_names_twice_is_refused(tmp_path):
    table = pyarrow.table([["Who?"], ["Ann."], ["Bo."]], names=["question", "answer", "answer"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="names the column 'answer' twice"):
        read_rows(tmp_path / "a.parquet")


def test_one_object_over_several_lines_is_one_row(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(ROWS[0], indent=2))
    assert read_rows(tmp_path / "a.json") == [ROWS[0]]
    (tmp_path / "b.json").write_text(json.dumps(ROWS[0], indent=2)[:-2])
    with pytest.raises(DataError, match="line 1: broken JSON"):
        read_rows(tmp_path / "b.json")
