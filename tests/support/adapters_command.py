"""asu-lora adapters, as a person types it."""

from pathlib import Path

from click.testing import CliRunner, Result

from asu_lora.cli import main
from tests.support.adapter_folders import files_of


def run(*arguments, **kwargs) -> Result:
    return CliRunner().invoke(main, ["adapters", *map(str, arguments)], **kwargs)


def good(*arguments, **kwargs) -> str:
    result = run(*arguments, **kwargs)
    assert result.exit_code == 0, result.output
    return result.stdout


def bad(*arguments, says: str) -> str:
    """One sentence on stderr, exit code 2, no traceback, the folder as it was."""
    before = files_of(Path.cwd())
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert says in result.stderr
    assert files_of(Path.cwd()) == before
    return result.stderr
