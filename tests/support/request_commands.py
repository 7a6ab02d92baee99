"""``asu-lora requests ...`` as people type it."""

from click.testing import CliRunner, Result

from asu_lora.cli import main


def call(*words, code: int = 0) -> Result:
    """Type the words behind ``asu-lora requests``; the exit code must be this one."""
    result = CliRunner().invoke(main, ["requests", *map(str, words)])
    assert result.exit_code == code, result.output
    return result
