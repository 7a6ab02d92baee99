"""asu-lora ask: the base and the base with adapters, side by side."""

import sys
from collections.abc import Iterator

import click

from asu_lora.adapters.adapter_spec import weighted
from asu_lora.cli.options import adapter_option, base_option, json_option, machine_options, prompt_options, store_option

NOT_UTF8 = "What comes through the pipe is no UTF-8 text: save it as UTF-8."


@click.command(short_help="Ask the base, and the base with adapters, side by side.")
@click.argument("question", required=False)
@base_option
@adapter_option
@store_option
@prompt_options
@machine_options
@json_option
def ask(*, question, base, adapters, store, precision, device, trust_remote_code, as_json, **prompt):
    """Ask QUESTION and see the answers of the base and of base + adapters.

    Without QUESTION, on a terminal, it is a chat that remembers what was said: /help shows what else can be typed
    there. Questions that come through a pipe, one a line, are answered one by one, up to an empty line.

    \b
      asu-lora ask "Where does Harry Potter go to school?" --adapter harry-potter
      asu-lora ask --adapter a --adapter b:0.5
      asu-lora ask --adapter a < questions.txt
    """
    from asu_lora.cli.console import print_json, print_table, readable, stderr
    from asu_lora.cli.quiet import quiet_libraries

    if question is not None and not question.strip():
        raise click.UsageError("The question is empty.")
    with stderr().status("Loading the base ..."):
        quiet_libraries()
        from asu_lora.models.adapter_stack import load
        from asu_lora.models.answer_ends import Endings

        stack = load(base, adapters, store, precision, device, trust_remote_code=trust_remote_code, rows=prompt)
    for note in stack.notes:
        click.echo(f"Warning: {note}", err=True)
    names = " + ".join(["base", *(weighted(name, weight) for name, weight in stack.adapters)])

    def answer(typed: str) -> None:
        text, of_base, of_adapters = readable(typed), Endings(), Endings()
        with stderr().status("Thinking ..."):
            with stack.without_adapters():
                plain = stack.ask([text], endings=of_base)[0]
            changed = stack.ask([text], endings=of_adapters)[0] if stack.adapters else None
        cut_off = [whose for whose, endings in (("base", of_base), ("adapters", of_adapters)) if endings.full]
        if cut_off:
            click.echo("Note: an answer was cut off, at 200 tokens with its question or 100 without.", err=True)
        if as_json:
            answers = {"base": plain} | ({"adapters": changed} if stack.adapters else {})
            print_json({"question": text, **answers, "cut_off": cut_off})
        else:
            columns, row = ("base", names) if stack.adapters else ("base",), (plain, changed)
            if question is None:
                click.echo(f"> {text}")  # of several answers each says what it answers
            print_table(None, columns, [row[: len(columns)]], wrap=(0, 1))

    if question is not None:
        return answer(question)
    if not as_json and _on_a_terminal():
        from asu_lora.cli.chat import Chat
        from asu_lora.models.conversation import Conversation

        return Chat(Conversation(stack)).run()
    for text in _questions():
        answer(text)
    return None


def _questions() -> Iterator[str]:
    """What is typed, or comes through a pipe, line by line up to an empty one."""
    typing = sys.stdin is not None and sys.stdin.isatty()
    if typing:
        click.echo("Ask; an empty line ends it.", err=True)
    while sys.stdin is not None:  # as with <&- in a shell
        try:
            text = click.prompt("", prompt_suffix="> " if typing else "", default="", show_default=False, err=True)
        except (EOFError, click.Abort):
            click.echo(err=True)
            return
        except UnicodeDecodeError as error:
            raise click.UsageError(NOT_UTF8) from error
        text = text.removeprefix("\ufeff").rstrip("\r")  # as Windows writes a file
        if "\0" in text:
            raise click.UsageError(NOT_UTF8)
        if not text.strip():
            return
        yield text


def _on_a_terminal() -> bool:
    """Whether a person types and reads."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
