"""Click groups that import a command only when it is called, and say errors in one sentence."""

import errno
import os
import sys
import traceback
from _thread import interrupt_main
from contextlib import suppress
from importlib import import_module
from threading import Timer
from typing import Any

import click

from asu_lora.cli.console import never_fail_to_encode
from asu_lora.errors import AsuLoraError

DEBUG = "asu_lora.debug"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class OneSentence(click.ClickException):
    """A user's error: its message on stderr, exit code 2."""

    exit_code = 2


class LazyGroup(click.Group):
    """A group that knows its commands by ``module:attribute`` and imports one when it is called."""

    def __init__(self, *args: Any, commands_from: dict[str, str], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.commands_from = commands_from

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands_from)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.commands_from:
            return None
        module, attribute = self.commands_from[name].split(":")
        return getattr(import_module(module), attribute)


class Program(LazyGroup):
    """The top-level group: ``--debug``, and the error manner.

    An :class:`AsuLoraError` becomes one sentence on stderr and exit code 2; so does Ctrl-C, with 130. Before it
    stands a traceback only if ``--debug`` was given, anywhere on the line.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.params.append(
            click.Option(
                ["--debug"],
                is_flag=True,
                expose_value=False,
                is_eager=True,
                callback=lambda ctx, _, value: ctx.meta.__setitem__(DEBUG, value),
                help="Show tracebacks.",
            )
        )

    def main(self, *args: Any, **kwargs: Any) -> Any:
        never_fail_to_encode()
        _hear_every_interrupt()
        return super().main(*args, **kwargs)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # it is wanted once something has gone wrong, and then typed at the end
        options = args[: args.index("--")] if "--" in args else args
        if "--debug" in options:
            args = ["--debug", *(word for word in options if word != "--debug"), *args[len(options) :]]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            if sys.stdout is not None:  # closed by the shell (>&-)
                sys.stdout.flush()
            return result
        except OSError as error:
            if error.errno not in _FULL:
                raise
            _write_no_more()
            raise OneSentence(f"The output can't be written: {error.strerror}.") from error
        except (AsuLoraError, KeyboardInterrupt) as error:
            if ctx.meta.get(DEBUG):
                traceback.print_exc()
            if isinstance(error, AsuLoraError):
                raise OneSentence(str(error)) from error
            # click would say "Aborted!" and exit with 1
            click.echo(str(error) or "Interrupted: the store holds whole adapters only.", err=True)
            sys.exit(130)


def _hear_every_interrupt() -> None:
    """Raise Ctrl-C once more where Python could but print it: in a lock's destructor, say. The run went on."""
    told = sys.unraisablehook
    if told is not sys.__unraisablehook__:
        return  # somebody listens already

    def again(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            return told(unraisable)
        later = Timer(0.05, interrupt_main)  # now it would be raised in here, and be lost as well
        later.daemon = True
        later.start()

    sys.unraisablehook = again


def _write_no_more() -> None:
    """What stdout still holds goes nowhere: Python would try to write it once more at its end, and fail loudly."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
