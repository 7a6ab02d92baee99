"""What ``make dist`` tries of a wheel, with the Python of an environment that holds nothing but the wheel.

    build/clean/bin/python benchmarks/common/try_wheel.py   # from any folder but the repository's

Every file of asu_lora/ and cli/ must have been installed, every command must say what it does, and the demonstration's
questions must be there.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def missing(package: Path) -> list[str]:
    """Files of the repository that are not in the installed package."""
    folders = {ROOT / "asu_lora": package, ROOT / "cli": package / "cli"}
    return [
        str(file.relative_to(ROOT))
        for here, there in folders.items()
        for file in sorted(here.rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts and not (there / file.relative_to(here)).is_file()
    ]


def command_lines() -> Iterator[list[str]]:
    """The words of every command and group, as asu-lora itself lists them."""
    import click

    from asu_lora.cli import main

    def below(command: click.Command, words: list[str]) -> Iterator[list[str]]:
        yield words
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None, f"{name} is listed and not there"
                yield from below(found, [*words, name])

    return below(main, [])


def try_it() -> str:
    """Try the installed package; what was found, in one sentence."""
    from click.testing import CliRunner

    import asu_lora
    from asu_lora.cli import main
    from asu_lora.demo.harry_potter import packaged_rows

    package = Path(asu_lora.__file__).parent
    assert not package.is_relative_to(ROOT / "asu_lora"), f"{package} is the repository, not the wheel"
    assert not (lost := missing(package)), f"The wheel lacks {', '.join(lost)}"
    tried = [*command_lines(), ["--version"], ["init", "-"]]
    for words in tried:
        done = CliRunner().invoke(main, words if words[-1:] in (["--version"], ["-"]) else [*words, "--help"])
        assert done.exit_code == 0, f"asu-lora {' '.join(words)}: {done.output}"
    rows = {name: len(packaged_rows(name)) for name in ("forget", "retain", "heldout", "controls")}
    assert all(rows.values()), f"The demonstration lacks its questions: {rows}"
    return f"asu-lora {asu_lora.__version__} in {package}: {len(tried)} command lines and the demonstration's rows."


if __name__ == "__main__":
    beside = Path(__file__).resolve().parent  # this folder's modules are no part of the wheel
    sys.path = [folder for folder in sys.path if folder and Path(folder).resolve() != beside]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        print(try_it())
