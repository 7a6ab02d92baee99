"""Pages of the site that are made from the program itself: commands, settings, and the list of results.

mkdocs calls these functions while it builds (``hooks`` in mkdocs.yml). They can't be wrong about an option: they
print what ``--help-all`` prints.
"""

import dataclasses
import json
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from asu_lora.adding_up import ADDS_UP
from asu_lora.cli import main
from asu_lora.cli.help_pages import EVERYTHING
from asu_lora.config import ForgetConfig

WIDTH = 84
RESULT = re.compile(r"^\| \[\w+\]\((results/\w+\.md)\) \| (.*) \|$", re.M)
PAGE_NAMED = re.compile(r"(?<![\w>/\"'])docs/([\w/]+\.md)")  # in a sentence; code and addresses stay as they are
ROLE = re.compile(r":(?:func|class|data|meth|mod|attr|exc):<code>(?:~(?:\w+\.)+)?")  # Sphinx's, of the docstrings


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Into the navigation: the results, in the groups of the list on the first page, and pages that nobody listed."""
    folder = Path(config.docs_dir)
    sections = {name: pages for entry in config.nav for name, pages in entry.items()}
    groups = grouped((folder / "README.md").read_text(encoding="utf-8"))
    sections["Results"] += ["results/index.md", *({name: [page for page, _ in rows]} for name, rows in groups)]
    named = str(config.nav)
    sections["Explanation"] += sorted(page.name for page in folder.glob("*.md") if page.name not in named)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The generated pages beside the written ones."""
    home = (Path(config.docs_dir) / "README.md").read_text(encoding="utf-8")
    for place, text in (
        ("reference/commands.md", commands()),
        ("reference/settings.md", settings()),
        ("results/index.md", results(home, config)),
        ("notebooks/ten_minutes.md", notebook(Path(config.docs_dir) / "notebooks" / "ten_minutes.ipynb")),
    ):
        files.append(File.generated(config, place, content=text))
    return files


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Texts are read elsewhere, too: here the roles of docstrings go, and pages that a sentence names become links."""

    def link(named: re.Match[str]) -> str:
        file = files.get_file_from_path(named[1])
        if file is None:
            return named[0]
        title, _, _ = page_title(config, named[1]).partition(",")
        return f'<a href="{file.url_relative_to(page.file)}">{title}</a>'

    return PAGE_NAMED.sub(link, ROLE.sub("<code>", html))


def page_title(config: MkDocsConfig, place: str) -> str:
    """The first line of a page, as plain text."""
    with (Path(config.docs_dir) / place).open(encoding="utf-8") as file:
        return file.readline().strip("# \n").replace("`", "")


def grouped(home: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """The list of results on the first page: (heading, [(file, what was measured)])."""
    parts = [part.partition("\n") for part in home.partition("\n## Results\n")[2].split("\n### ")[1:]]
    return [(heading, RESULT.findall(rest)) for heading, _, rest in parts]


def every_command(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    """(what is typed, command), groups before what is in them."""
    yield path, group
    context = click.Context(group, **(group.context_settings if group is main else {}))
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from every_command(command, f"{path} {name}")
        elif command is not None:
            yield f"{path} {name}", command


def commands() -> str:
    """A section a command, as it explains itself."""
    parts = ["# Commands\n\nWhat `--help-all` prints, made when this site was built.\n"]
    for typed, command in every_command(main, "asu-lora"):
        settings = {**main.context_settings, "max_content_width": WIDTH, "terminal_width": WIDTH}
        context = click.Context(command, info_name=typed, **settings)
        context.meta[EVERYTHING] = True
        parts.append(f"## {typed}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


def settings() -> str:
    """A table a group: option, default, what it does."""
    parts = [
        "# Settings\n\nEvery setting of `asu-lora forget`, `compare` and `continual`: an option on the command line, a "
        "key in the YAML of `--config` (`asu-lora init` writes one), an argument of `asu_lora.ForgetConfig`. Key and "
        "argument are the option's name with underscores: `--retain-loss` is `retain_loss`. Where two defaults stand, "
        "the first is that of `forget`, for an adapter that is trained alone with the usual loss; the second is that "
        "of `compare`, `continual` and `ForgetConfig()`.\n"
    ]
    groups = list(dict.fromkeys(spec.metadata["group"] for spec in dataclasses.fields(ForgetConfig)))
    fields = sorted(dataclasses.fields(ForgetConfig), key=lambda spec: groups.index(spec.metadata["group"]))
    for group, specs in groupby(fields, key=lambda spec: spec.metadata["group"]):
        parts.append(f"## {group}\n\n| option | default | what it does |\n|---|---|---|")
        for spec in specs:
            flag, choices = "--" + spec.name.replace("_", "-"), spec.metadata["choices"]
            flag = f"{flag}`, `--no-{flag[2:]}" if isinstance(spec.default, bool) else flag
            default = "" if spec.default is None else f"`{spec.default}`"
            if spec.name in ADDS_UP:
                default = f"`{ADDS_UP[spec.name]}`; with `--no-adds-up` {default}"
            text = spec.metadata["help"] + (f" One of `{'`, `'.join(choices)}`." if choices else "")
            parts.append(f"| `{flag}` | {default} | {text.replace('|', '&#124;')} |")
        parts.append("")
    return "\n".join(parts)


def notebook(file: Path) -> str:
    """A notebook as a page: its texts, its code, and what that printed."""
    parts = []
    for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        printed = "".join(text for output in cell["outputs"] for text in output.get("text", ()))
        if printed.strip():
            parts.append(f"```text\n{printed.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def results(home: str, config: MkDocsConfig) -> str:
    """The list of results, each page by its own title."""
    lines = [
        "# Results\n",
        "Every page gives its command, its machine and its date; the figures as files are in `docs/results/data`.",
    ]
    for heading, rows in grouped(home):
        lines.append(f"\n## {heading}\n\n| page | what was measured |\n|---|---|")
        lines += [f"| [{page_title(config, page)}]({Path(page).name}) | {told} |" for page, told in rows]
    return "\n".join(lines) + "\n"
