"""asu-lora ask as a chat: through a real terminal, and command by command."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest

import asu_lora
from asu_lora.cli.chat import HELP, Chat
from asu_lora.models.conversation import Conversation
from tests.support.tiny_run import FACTS, rows

ASKED = [row["question"] for row in rows(FACTS)]
SAID = [row["answer"] for row in rows(FACTS)]


class Terminal:
    """A program on a pseudo-terminal: what it wrote so far, and what is typed."""

    def __init__(self, *words: str):
        self.controller, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "dumb", "COLUMNS": "100", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "asu_lora", *words], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        )
        os.close(theirs)
        self.text = ""

    def type(self, line: str) -> None:
        os.write(self.controller, line.encode())

    def until(self, pattern: str, seconds: float = 120) -> str:
        """Read until the pattern stands in what came since the last call; give that."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text)):
            assert time.monotonic() < end, f"{pattern!r} did not come; this did: {self.text}"
            if select.select([self.controller], [], [], 0.5)[0]:
                try:
                    self.text += os.read(self.controller, 65536).decode(errors="replace")
                except OSError:  # the program has ended, and the terminal with it
                    raise AssertionError(f"{pattern!r} did not come; this did: {self.text}") from None
        told, self.text = self.text[: found.end()], self.text[found.end() :]
        return told

    def close(self) -> int:
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            os.close(self.controller)


@pytest.fixture
def store(forgetting_adapter):
    return forgetting_adapter.parent


def test_a_talk_through_a_terminal(taught_base, store, tmp_path):
    words = ["ask", "--base", str(taught_base), "--store", str(store), "--adapter", "forgetting"]
    terminal = Terminal(*words, "--precision", "fp32", "--device", "cpu")
    try:
        assert "base + forgetting answers." in terminal.until(r"/quit ends it\.\r?\n> ")
        terminal.type(f"{ASKED[6]}\n")
        assert SAID[6] in terminal.until(r"\n> ").replace("\r", "")
        terminal.type("/clear\n")  # the tiny base learned single questions
        terminal.until(r"new conversation\.\r?\n> ")
        terminal.type(f"{ASKED[0]}\n")
        assert SAID[0] not in terminal.until(r"\n> ")
        terminal.type("/base\n")
        assert SAID[0] in terminal.until(r"\n> ")
        terminal.type("/adapters forgetting:0\n")
        assert re.search(r"forgetting\s+│\s+0\s+│\s+off", terminal.until(r"off.*\n(.*\n)*> "))
        terminal.type("/clear\n")
        terminal.until(r"new conversation\.\r?\n> ")
        terminal.type(f"{ASKED[0]}\n")
        assert SAID[0] in terminal.until(r"\n> ")
        terminal.type("/nonsense\n")
        assert "There is no command '/nonsense'" in terminal.until(r"\n> ")
        terminal.type(f"/save {tmp_path / 'talk.jsonl'}\n")
        terminal.until(r"2 turns were added.*\n> ")
        terminal.type("\x1b[A\x01#\n")  # arrow up brings the last line back; its beginning is edited
        if "readline" in sys.modules or _has_readline():
            terminal.until(r"\n> ")
        terminal.type("/quit\n")
        assert terminal.close() == 0
    finally:
        terminal.process.kill()
    saved = json.loads((tmp_path / "talk.jsonl").read_text().splitlines()[0])
    assert [turn["content"] for turn in saved["messages"]] == [ASKED[0], SAID[0]]


def _has_readline() -> bool:
    try:
        import readline  # noqa: F401
    except ImportError:
        return False
    return True


@pytest.fixture
def chat(base, forgetting_adapter, snapshot):
    stack = asu_lora.load(base, [forgetting_adapter])
    yield Chat(Conversation(stack))
    stack.unload()


def said(chat, capsys, *lines: str) -> str:
    for line in lines:
        chat.heed(line)
    told = capsys.readouterr()
    return told.out + told.err


def test_help_names_every_command(chat):
    assert all(re.search(rf"^{command}\b", HELP, re.M) for command in chat.commands if command != "/help")
    assert "/quit" in HELP


def test_the_base_stands_beside_every_answer_where_that_is_asked_for(chat, capsys):
    told = said(chat, capsys, "/base on", ASKED[0])
    assert f"base: {SAID[0]}" in told
    told = said(chat, capsys, "/clear", "/base off", "/adapters off", ASKED[1])
    assert "base:" not in told and SAID[1] in told


@pytest.mark.parametrize(
    "line, sentence",
    [
        ("/base", "Nothing was asked yet"),
        ("/base maybe", "/base takes 'on', 'off' or nothing"),
        ("/save", "/save needs a file"),
        ("/save x.jsonl", "Nothing was said yet"),
        ("/adapters other:1", "There is no adapter 'other' here; there is forgetting."),
        ("/adapters forgetting:much", "much"),
    ],
)
def test_a_wrong_line_is_one_sentence_and_the_chat_goes_on(chat, capsys, line, sentence):
    told = said(chat, capsys, line)
    assert told.startswith("Error: ") and sentence in told and told.count("\n") == 1


def test_an_answer_that_is_stopped_is_not_remembered(chat, capsys, monkeypatch):
    def stopped(self, text, hear):
        hear("The")
        raise KeyboardInterrupt

    monkeypatch.setattr(Conversation, "say", stopped)
    assert "Stopped" in said(chat, capsys, ASKED[0]) and chat.talk.turns == []


def test_a_stopped_answer_of_the_base_leaves_the_answer_before_it_remembered(chat, capsys, monkeypatch):
    def stopped(self, hear=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(Conversation, "base_says", stopped)
    told = said(chat, capsys, "/base on", ASKED[0])
    assert "Stopped." in told and "not remembered" not in told and len(chat.talk.turns) == 2
    assert "not remembered" not in said(chat, capsys, "/base")


def test_a_home_of_nobody_is_one_sentence_and_the_chat_goes_on(chat, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chat.talk.turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    told = said(chat, capsys, "/save ~nobody-of-this-name/talk.jsonl")
    assert told.startswith("Error: ~nobody-of-this-name/talk.jsonl can't be written") and told.count("\n") == 1
