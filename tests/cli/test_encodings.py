"""Where it runs: legacy encodings, narrow terminals and folders that can't be written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from asu_lora.adapters.store import AdapterStore
from asu_lora.cli import main
from tests.support.adapter_folders import add
from tests.support.tiny_run import FACTS, rows

C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
MACHINE = ("--precision", "fp32", "--device", "cpu")


def run(words, **environment):
    """The program in a process of its own, as a terminal of that encoding starts it."""
    return subprocess.run(
        [sys.executable, "-m", "asu_lora", *map(str, words)],
        capture_output=True,
        env=os.environ | environment,
        timeout=300,
    )


@pytest.fixture
def greek(tmp_path):
    """A request whose texts and file name no legacy encoding holds."""
    path = tmp_path / "τ→木.jsonl"
    path.write_text("\n".join(json.dumps(row | {"who": "木村"}) for row in rows(FACTS[:3])), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii:strict"},
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "cp1252"},
        C_LOCALE,
        C_LOCALE | {"PYTHONIOENCODING": "ascii"},
    ],
    ids=lambda found: " ".join(f"{key}={value}" for key, value in found.items()),
)
def test_an_error_about_a_name_the_terminal_cannot_show_is_one_sentence(environment, tmp_path):
    missing = tmp_path / "nö→木.jsonl"
    result = run(["forget", missing], **environment)
    assert result.returncode == 2 and b"Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith(b"Error: There is no file ")
    assert run(["compare", "--help"], **environment).returncode == 0


@pytest.mark.parametrize(
    "environment",
    [pytest.param({"PYTHONIOENCODING": "cp1252"}, id="cp1252", marks=pytest.mark.slow), pytest.param(C_LOCALE, id="C")],
)
def test_tables_json_and_progress_in_a_legacy_encoding(environment, taught_base, greek, tmp_path):
    words = ["probe", greek, "--base", taught_base, *MACHINE, "--tau", "2", "--layers", "all", "--answers", "1"]
    out = tmp_path / "ö→木"
    result = run([*words, "--where", "who=木村", "--out", out, "--json"], **environment)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == json.loads((out / "probe.json").read_text(encoding="utf-8"))
    table = run(["ask", "Wer ist 木村 → τ?", "--base", taught_base, *MACHINE], **environment)
    assert table.returncode == 0 and b"Traceback" not in table.stderr


def test_a_narrow_terminal_cuts_no_digit(taught_base, greek, tmp_path):
    words = ["probe", greek, "--base", taught_base, *MACHINE, "--tau", "2", "--layers", "all", "--answers", "1"]
    tables = []
    for columns in ("20", "200"):
        typed = [str(word) for word in (*words, "--out", tmp_path / columns)]
        result = CliRunner().invoke(main, typed, env={"COLUMNS": columns})
        assert result.exit_code == 0, result.output
        lines = result.stdout.splitlines()
        tables.append([line for line in lines if line[:1] in "│┃┡├└┏|+" and line])
    assert tables[0] == tables[1] != [] and not any("…" in line for line in tables[0])


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write into")
@pytest.mark.parametrize(
    "words",
    [
        ("compare", "FILE", "--methods", "ASU_KL"),
        ("continual", "--requests", "FILE", "--questions", "2"),
        ("probe", "FILE"),
    ],
    ids=lambda words: words[0],
)
def test_a_folder_that_cannot_be_written_is_said_before_the_base_is_loaded(words, tmp_path):
    """The base doesn't exist either: whatever is looked at first is what the sentence is about."""
    path, keep = tmp_path / "f.jsonl", tmp_path / "keep.jsonl"
    path.write_text("\n".join(map(json.dumps, rows(FACTS[:3]))))
    keep.write_text("\n".join(map(json.dumps, rows(FACTS[6:]))))
    typed = [str(path) if word == "FILE" else word for word in words]
    typed += [] if words[0] == "probe" else ["--retain", str(keep)]
    result = CliRunner().invoke(main, [*typed, "--base", "/nowhere/base", "--out", "/proc/self"])
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert result.stderr.splitlines()[-1].startswith("Error: The folder /proc/self can't be changed: ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_an_output_that_is_full_is_one_sentence(tmp_path):
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "asu_lora", "adapters", "list", "--store", tmp_path, "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=300,
        )
    assert result.returncode == 2
    assert result.stderr.decode().splitlines() == ["Error: The output can't be written: No space left on device."]


def test_without_a_standard_input_nothing_is_asked(tiny_base):
    words = ["-m", "asu_lora", "ask", "--base", str(tiny_base), *MACHINE]
    result = subprocess.run(
        ["sh", "-c", 'exec "$0" "$@" <&-', sys.executable, *words], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0 and result.stdout == "" and "Traceback" not in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such terminal")
@pytest.mark.parametrize(("environment", "bare"), [({"NO_COLOR": "1"}, True), ({"TERM": "dumb"}, True), ({}, False)])
def test_a_terminal_that_wants_no_colour_gets_no_escapes(environment, bare, tmp_path):
    add(AdapterStore(tmp_path / "store"), "harry")
    ours, theirs = os.openpty()
    try:
        told = {name: text for name, text in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"} | environment
        words = [sys.executable, "-m", "asu_lora", "adapters", "list", "--store", str(tmp_path / "store")]
        assert subprocess.run(words, stdout=theirs, stderr=theirs, env=told, timeout=300).returncode == 0
        written = os.read(ours, 1 << 16)
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"harry" in written and (b"\x1b" not in written) == bare
