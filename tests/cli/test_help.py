"""Help: at once, without the heavy imports, and true to the defaults."""

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import asu_lora
from asu_lora.cli import main
from asu_lora.config import ForgetConfig

PROGRAM = Path(sys.executable).parent / "asu-lora"
MOST_SECONDS = 0.5


def every_command(group: click.Group = main, *path: str):
    """The words of every command, sub-commands included."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from every_command(command, *path, name)


@pytest.mark.skipif(not PROGRAM.is_file(), reason="the program is not installed beside this Python")
def test_help_answers_at_once():
    """The best of five, so that a busy machine is not taken for a slow program."""
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        done = subprocess.run([PROGRAM, "--help"], capture_output=True, text=True, check=True)
        best = min(best, time.perf_counter() - started)
        if best < MOST_SECONDS:
            break
    assert best < MOST_SECONDS
    for command in main.commands_from:
        assert f"  {command} " in done.stdout


def test_no_help_imports_anything_heavy():
    heavy = ("torch", "transformers", "peft", "datasets", "bitsandbytes", "accelerate", "numpy", "rich", "pydantic")
    script = (
        f"import sys\nfrom click.testing import CliRunner\nfrom asu_lora.cli import main\n"
        f"for words in {[*map(list, every_command()), []]!r}:\n"
        f"    assert CliRunner().invoke(main, [*words, '--help']).exit_code == 0, words\n"
        f"print(*(name for name in {heavy!r} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_python_m_is_the_same_program():
    done = subprocess.run([sys.executable, "-m", "asu_lora", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"asu-lora, version {asu_lora.__version__}\n"
    done = subprocess.run(
        [sys.executable, "-m", "asu_lora", "frget"], capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"}
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("Usage: asu-lora ") and "frget" in done.stderr


@pytest.mark.parametrize("words", list(every_command()), ids=" ".join)
def test_every_command_explains_itself(words):
    command = main
    for word in words:
        command = command.get_command(click.Context(command), word)
    for flag in ("-h", "--help"):
        result = CliRunner().invoke(main, [*words, flag])
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith("Usage:")
    assert command.get_short_help_str(200)
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{parameter.opts} has no help"
            assert parameter.help.count("[default:") <= (not parameter.show_default), parameter.opts


def test_every_setting_shows_its_default_once():
    forget = main.get_command(click.Context(main), "forget")
    options = {option.name: option for option in forget.params}
    for spec in dataclasses.fields(ForgetConfig):
        flag = "--" + spec.name.replace("_", "-")
        assert options[spec.name].opts[0] == flag
        shown = options[spec.name].help.rpartition("[default: ")[2].removesuffix("]")
        if isinstance(spec.default, bool):
            assert shown == ("on" if spec.default else "off"), flag
        elif spec.default is None:
            assert shown in ("twice the rank", "the best there is", "none", "today, recorded"), flag
        elif isinstance(spec.default, (int, float)):
            assert float(shown) == spec.default, flag
        else:
            assert shown == spec.default, flag


def test_without_a_command_the_help_is_shown():
    result = CliRunner().invoke(main, [])
    assert "Commands:" in result.output and "demo" in result.output
