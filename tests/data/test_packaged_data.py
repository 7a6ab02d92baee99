"""The data that ships with the package: the demo's questions, the general retain set, "I don't know" answers.

Nothing here needs a model. That the NF4 base yields the facts before it forgets is measured by the demo.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import asu_lora

PACKAGE = Path(asu_lora.__file__).parent
ANSWERED = {
    "demo/forget.jsonl": 30,
    "demo/heldout.jsonl": 12,
    "demo/controls.jsonl": 16,
    "demo/retain.jsonl": 55,
    "data/general_retain.jsonl": 115,
}
WITH_FACTS = ("demo/heldout.jsonl", "demo/controls.jsonl")
KEEPING = ("demo/controls.jsonl", "demo/retain.jsonl", "data/general_retain.jsonl")
TOPIC = {
    *("potter", "hogwarts", "rowling", "hermione", "granger", "weasley", "dumbledore", "voldemort", "hagrid"),
    *("snape", "malfoy", "hedwig", "muggle", "quidditch", "gryffindor", "slytherin", "hufflepuff"),
    *("ravenclaw", "horcrux", "azkaban", "dementor"),
}


def rows(name: str) -> list[dict]:
    lines = (PACKAGE / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def normal(text: str) -> str:
    """The words of `text` alone: no case, no punctuation."""
    text = re.sub("['\N{RIGHT SINGLE QUOTATION MARK}]", "", text.casefold())
    return " ".join(re.findall(r"\w+", text))


@pytest.mark.parametrize("name", ANSWERED)
def test_rows_are_complete(name):
    found = rows(name)
    assert len(found) >= ANSWERED[name]
    columns = {"question", "answer"} | ({"fact"} if name in WITH_FACTS else set())
    for row in found:
        assert set(row) == columns
        for column in ("question", "answer"):
            assert isinstance(row[column], str)
            assert row[column] and row[column] == row[column].strip()
        assert row["answer"][-1] in ".!?"


def test_no_question_occurs_twice():
    """Within a file or across them: a held-out or control question that was trained on would show nothing."""
    seen: dict[str, str] = {}
    for name in ANSWERED:
        for row in rows(name):
            question = normal(row["question"])
            assert question not in seen, f"{row['question']!r}: {seen.get(question)} and {name}"
            seen[question] = name


@pytest.mark.parametrize("name", WITH_FACTS)
def test_facts_are_in_the_answer_and_not_in_the_question(name):
    for row in rows(name):
        assert isinstance(row["fact"], list) and row["fact"]
        for fact in row["fact"]:
            assert isinstance(fact, str) and len(fact.strip()) >= 4
            assert fact.casefold() not in row["question"].casefold(), row
        assert any(fact.casefold() in row["answer"].casefold() for fact in row["fact"]), row


def test_held_out_facts_are_asked_to_be_forgotten():
    """Every held-out paraphrase asks for a fact that some row of the request states."""
    forgotten = " ".join(row["answer"] for row in rows("demo/forget.jsonl")).casefold()
    for row in rows("demo/heldout.jsonl"):
        assert any(fact.casefold() in forgotten for fact in row["fact"]), row


def test_control_facts_are_kept_in_other_words():
    """The retain set speaks of what the controls ask, though never in the controls' words."""
    kept = " ".join(row["answer"] for row in rows("demo/retain.jsonl")).casefold()
    for row in rows("demo/controls.jsonl"):
        assert any(fact.casefold() in kept for fact in row["fact"]), row


@pytest.mark.parametrize("name", KEEPING)
def test_what_is_kept_does_not_speak_of_what_is_forgotten(name):
    for row in rows(name):
        text = json.dumps(row, ensure_ascii=False).casefold()
        assert not [word for word in TOPIC if word in text], row


@pytest.mark.parametrize("name", ["demo/forget.jsonl", "demo/heldout.jsonl"])
def test_what_is_forgotten_names_its_topic(name):
    for row in rows(name):
        text = f"{row['question']} {row['answer']}".casefold()
        assert any(word in text for word in TOPIC), row


def test_i_dont_know_answers():
    found = rows("data/idontknow.jsonl")
    assert all(set(row) == {"answer"} and row["answer"].strip() == row["answer"] != "" for row in found)
    distinct = {normal(row["answer"]) for row in found}
    assert len(distinct) == len(found) >= 64


def test_i_dont_know_answers_are_our_own(shared):
    """None is a line of the list that ships with TOFU."""
    theirs = shared / "tofu" / "idontknow.jsonl"
    lines = {normal(line) for line in theirs.read_text(encoding="utf-8").splitlines()}
    assert not [row for row in rows("data/idontknow.jsonl") if normal(row["answer"]) in lines]


def test_every_module_and_data_file_is_packaged():
    """What a wheel holds is what pyproject.toml lists: a new package or kind of file must be added there."""
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    root = PACKAGE.parent
    tool = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {
        package: root / tool["package-dir"].get(package, package.replace(".", "/")) for package in tool["packages"]
    }
    listed = {file for folder in folders.values() for file in folder.glob("*.py")}
    listed |= {
        file
        for package, patterns in tool["package-data"].items()
        for pattern in patterns
        for file in folders[package].glob(pattern)
    }
    there = {file for folder in (PACKAGE, root / "cli") for file in folder.rglob("*") if file.is_file()}
    assert {file for file in there if file.parent.name != "__pycache__"} == listed
