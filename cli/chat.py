"""The chat of asu-lora ask: turns with a memory, answers as they come, and commands that begin with a slash."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from asu_lora.adapters.adapter_spec import parse_adapter, weighted
from asu_lora.cli.console import print_table, readable, stderr
from asu_lora.errors import AsuLoraError, SettingError
from asu_lora.files import expanded

if TYPE_CHECKING:
    from asu_lora.models.conversation import Conversation

HELP = """\
/adapters            what is on the base, and at which weights
/adapters NAME:0.5   another weight; NAME:0 takes it off
/adapters off, on    all of them
/base                the base's answer to the last question beside that of base + adapters
/base on, off        the base's answer beside every answer
/clear               begin a new conversation
/save FILE           write the conversation as a line of JSON ('messages')
/quit                or Ctrl-D; Ctrl-C stops an answer"""


class Chat:
    """A conversation on a terminal.

    Attributes:
        talk: who answers, and what was said.
        beside: whether the base's answer is shown with every answer.
    """

    def __init__(self, talk: "Conversation"):
        self.talk, self.beside = talk, False
        self.commands: dict[str, Callable[[str], None]] = {
            "/adapters": self.adapters,
            "/base": self.base,
            "/clear": self.clear,
            "/save": self.save,
            "/help": lambda rest: click.echo(HELP),
        }

    def run(self) -> None:
        """Read lines until /quit or the end of input. Arrow keys bring earlier ones back; none is kept on the disk."""
        _line_editing([*self.commands, "/quit"], [name for name, _ in self.talk.stack.adapters])
        click.echo(f"{self.who()} answers. /help shows what else can be typed; /quit ends it.")
        while True:
            try:
                line = readable(input("> ")).strip()
            except KeyboardInterrupt:
                click.echo()
                continue
            except EOFError:
                click.echo()
                return
            if line == "/quit":
                return
            if line:
                self.heed(line)

    def heed(self, line: str) -> None:
        """Answer a question, or do what a line with a slash says; an error is a sentence, and the chat goes on."""
        (word, _, rest), turns = line.partition(" "), self.talk.turns
        try:
            if word in self.commands:
                self.commands[word](rest.strip())
            elif line.startswith("/"):
                raise SettingError(f"There is no command '{word}': /help shows them.")
            else:
                self.answer(line)
        except AsuLoraError as error:
            click.echo(f"Error: {error}", err=True)
        except KeyboardInterrupt:
            unsaid = not line.startswith("/") and self.talk.turns is turns
            click.echo(f"\nStopped{'; question and answer are not remembered' if unsaid else ''}.", err=True)

    def answer(self, text: str) -> None:
        """Print the answer as it comes, and a word on it where it was cut off."""
        before, turns = self.talk.endings.full, len(self.talk.turns)
        self.talk.say(text, _print_piece)
        click.echo()
        if len(self.talk.turns) < turns + 2:
            click.echo("Note: the oldest turns no longer fit before an answer and were let go.", err=True)
        if self.talk.endings.full > before:
            click.echo("Note: the answer was cut off by its length.", err=True)
        if self.beside and self.talk.adapted:
            click.echo(click.style("base: ", bold=True), nl=False)
            self.talk.base_says(_print_piece)
            click.echo()

    def adapters(self, rest: str) -> None:
        """Show the adapters, change a weight, or take all off and put them on again."""
        if rest in ("on", "off"):
            self.talk.on = rest == "on"
        elif rest:
            name, weight = parse_adapter(rest)
            self.talk.weigh(str(name), weight)
        adapters = self.talk.stack.adapters
        if not adapters:
            click.echo("No adapter is on the base: give some with --adapter.")
            return
        rows = [(name, f"{weight:g}", "on" if self.talk.on and weight else "off") for name, weight in adapters]
        print_table(None, ("adapter", "weight", "now"), rows, right=(1,))

    def base(self, rest: str) -> None:
        """Show the base's answer beside the last one, or beside every one from now on."""
        if rest in ("on", "off"):
            self.beside = rest == "on"
            click.echo(f"The base's answer is {'shown with every answer' if self.beside else 'no longer shown'}.")
            return
        if rest:
            raise SettingError(f"/base takes 'on', 'off' or nothing, not '{rest}'.")
        with stderr().status("Thinking ..."):
            plain = self.talk.base_says()
            changed = self.talk.adapters_say() if self.talk.stack.adapters else None
        shown = {"base": plain} | ({names_of(self.talk): changed} if changed is not None else {})
        print_table(None, list(shown), [list(shown.values())], wrap=(0, 1))

    def clear(self, rest: str) -> None:
        """Begin anew."""
        self.talk.clear()
        click.echo("A new conversation.")

    def save(self, rest: str) -> None:
        """Add the conversation to a file, in the format that requests and retain rows are read from."""
        if not rest:
            raise SettingError("/save needs a file: /save talk.jsonl.")
        if not self.talk.turns:
            raise SettingError("Nothing was said yet, so there is nothing to save.")
        try:
            with expanded(rest).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"messages": self.talk.turns}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise SettingError(f"{rest} can't be written: {error.strerror}.") from error
        click.echo(f"{len(self.talk.turns)} turns were added to {rest}.")

    def who(self) -> str:
        """Who answers now."""
        return names_of(self.talk) if self.talk.adapted else "base"


def names_of(talk: "Conversation") -> str:
    """The base and its adapters, with their weights."""
    return " + ".join(["base", *(weighted(name, weight) for name, weight in talk.stack.adapters)])


def _print_piece(text: str) -> None:
    click.echo(text, nl=False)


def _line_editing(commands: list[str], names: list[str]) -> None:
    """Arrow keys, history and the tab key, where Python has readline."""
    try:
        import readline
    except ImportError:  # Windows
        return
    readline.set_auto_history(True)
    words = [*commands, *(f"/adapters {name}:" for name in names)]

    def complete(text: str, state: int) -> str | None:
        found = [word for word in words if word.startswith(readline.get_line_buffer())]
        return found[state][len(readline.get_line_buffer()) - len(text) :] if state < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" ")
    readline.parse_and_bind("tab: complete")
