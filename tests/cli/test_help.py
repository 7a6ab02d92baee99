"""Help: at once, without the heavy imports, and true to the defaults."""

import dataclasses
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml
from click.shell_completion import ShellComplete
from click.testing import CliRunner

import asu_lora
from asu_lora.adding_up import ADDS_UP
from asu_lora.cli import main
from asu_lora.config import ForgetConfig
from asu_lora.config_mapping import config_from
from tests.support.adapter_folders import write_lora

PROGRAM = Path(sys.executable).parent / "asu-lora"
MOST_SECONDS = 0.25


def every_command(group: click.Group = main, *path: str):
    """The words of every command, sub-commands included."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from every_command(command, *path, name)


@pytest.mark.skipif(not PROGRAM.is_file(), reason="the program is not installed beside this Python")
def test_help_answers_at_once():
    """Seconds of the processor, the best of five, so that a busy machine is not taken for a slow program."""
    best = float("inf")
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([PROGRAM, "--help"], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
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


@pytest.mark.parametrize("words", [(), ("requests",), ("adapters",), ("audit",)], ids=str)
def test_a_list_of_commands_cuts_no_line_short(words):
    told = CliRunner().invoke(main, [*words, "--help"], terminal_width=80).stdout.partition("\nCommands:\n")[2]
    assert told and "..." not in told


def test_a_list_of_options_breaks_no_option_in_two():
    for words, wide in (("forget", 80), ("forget", 100), ("requests run", 100)):
        told = CliRunner().invoke(main, [*words.split(), "--help-all"], terminal_width=wide).stdout
        assert "--adds-up" in told and not re.search(r"--[a-z-]+-\n", told), words


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
            assert shown in ("twice the rank", "the best there is", "none", "today, recorded", "the paper's"), flag
        elif isinstance(spec.default, (int, float)):
            summed, _, plain = shown.partition("; with --no-adds-up ")
            assert float(summed) == ADDS_UP.get(spec.name, spec.default), flag
            assert plain == (f"{spec.default:g}" if spec.name in ADDS_UP else ""), flag
        else:
            assert shown == spec.default, flag


def setting_commands():
    """The commands that take settings."""
    for words in every_command():
        command = main
        for word in words:
            command = command.get_command(click.Context(command), word)
        if any(option.name == "config" for option in command.params):
            yield words, command


def test_help_is_short_and_help_all_shows_every_option_under_its_group():
    seen = dict(setting_commands())
    assert set(seen) == {("forget",), ("compare",), ("continual",), ("requests", "run")}
    for words, command in seen.items():
        short, full = (CliRunner().invoke(main, [*words, flag]).stdout for flag in ("--help", "--help-all"))
        assert len(short.splitlines()) < 0.65 * len(full.splitlines())
        for flag in ("--rank", "--lr", "--config", "--help-all"):
            assert f" {flag} " in short
        assert "--weight-decay" not in short and "more options" in short and "asu-lora init" in " ".join(short.split())
        sections = re.split(r"^(\S.*):$", full, flags=re.M)
        found = dict(zip(sections[1::2], sections[2::2], strict=True))
        for option in (each for each in command.params if isinstance(each, click.Option)):
            assert re.search(rf"^  .*{option.opts[0]}\b", found[getattr(option, "group", None) or "Options"], re.M)
        hidden = re.search(r"(\d+) more options.*?: (.*?)\.\s+See", short, re.S)
        assert int(hidden[1]) == sum(map(int, re.findall(r"\((\d+)\)", hidden[2])))
        assert int(hidden[1]) == sum(len(re.findall(r"^  -", text, re.M)) for text in found.values()) - len(
            re.findall(r"^  -", short, re.M)
        )


def test_init_writes_every_setting_with_its_default_and_forget_takes_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["init"])
    assert done.exit_code == 0 and "forget FILE --config asu-lora.yaml" in done.stdout
    written = Path("asu-lora.yaml").read_text()
    assert CliRunner().invoke(main, ["init", "-"]).stdout == written
    assert yaml.safe_load(written) is None  # nothing is set before somebody takes a mark away
    for spec in dataclasses.fields(ForgetConfig):
        assert spec.metadata["help"].split(".")[0] in " ".join(re.sub("^#", "", written, flags=re.M).split()), spec.name
    values = yaml.safe_load(re.sub(r"^# (?=\w+: )", "", written, flags=re.M))
    names = {spec.name for spec in dataclasses.fields(ForgetConfig)}
    assert config_from({name: value for name, value in values.items() if name in names}, "it") == ForgetConfig(
        **ADDS_UP
    )
    assert names <= set(values)
    del values["retain_pool"]  # what `retain: auto` chooses from
    Path("all.yaml").write_text(yaml.safe_dump(values))
    refused = CliRunner().invoke(main, ["forget", "not-there.jsonl", "--config", "all.yaml"])
    assert refused.exit_code == 2 and "not-there.jsonl" in refused.stderr  # the file of settings was taken
    for words, says in ((["init"], "not overwritten"), (["init", "no/such/folder.yaml"], "can't be written")):
        refused = CliRunner().invoke(main, words)
        assert refused.exit_code == 2 and says in " ".join(refused.stderr.split())
    assert Path("asu-lora.yaml").read_text() == written


def test_the_tab_key_completes_names_of_adapters(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("harry", "harriet", "ron"):
        write_lora(tmp_path / "adapters" / name)
    shell = ShellComplete(main, {}, "asu-lora", "_ASU_LORA_COMPLETE")
    found = lambda words, begun: [item.value for item in shell.get_completions(words, begun)]  # noqa: E731
    for words in (
        ["adapters", "show"],
        ["ask", "who?", "--adapter"],
        ["forget", "f.jsonl", "-t"],
        ["adapters", "remove"],
    ):
        assert found(words, "har") == ["harriet", "harry"], words
    assert found(["adapters", "show", "--store", str(tmp_path / "none")], "") == []


def test_without_a_command_the_help_is_shown():
    result = CliRunner().invoke(main, [])
    assert "Commands:" in result.output and "demo" in result.output
