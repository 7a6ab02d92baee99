"""The documentation names only what is there, and leaves out no page."""

import re
import shlex
import tomllib

import click
import pytest

from asu_lora.adding_up import ADDS_UP
from asu_lora.cli import main
from asu_lora.config import ForgetConfig
from tests.support.root import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# whole paths, and those inside the library as the pages shorten them: ``losses/forget/npo.py``, ``retain/``
NAMED = re.compile(r"`((?:[\w.]+/)+(?:[\w.]+\.(?:py|md|json|csv|svg))?)`")
# of the site alone: docs/generated_pages.py makes them
GENERATED = (
    "settings.md",
    "commands.md",
    "../reference/settings.md",
    "../reference/commands.md",
    "results/index.md",
    "notebooks/ten_minutes.md",
    "../notebooks/ten_minutes.md",
)
FILLED_BY_COMMANDS = ("runs/", ".runs/", ".requests/")
PLACES = [ROOT, ROOT / "asu_lora", ROOT / "docs", *(path.parent for path in (ROOT / "asu_lora").glob("*/__init__.py"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_and_folder_a_page_names_is_there(page):
    text = page.read_text()
    named = [path for path in NAMED.findall(text) if not path.startswith(FILLED_BY_COMMANDS)]
    linked = [path for path in re.findall(r"\]\((?!https?:)([^)#]+)\)", text) if path not in GENERATED]
    assert not [path for path in named if not any((place / path).exists() for place in [*PLACES, page.parent])]
    assert not [path for path in linked if not (page.parent / path).exists()]


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: str(page.relative_to(ROOT)))
def test_no_link_of_a_page_leaves_the_site(page):
    """Into the repository a page names its files, without a link: on the site it would lead nowhere."""
    linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text())
    assert not [path for path in linked if not (page.parent / path).resolve().is_relative_to(ROOT / "docs")]


def test_what_a_page_says_of_a_defaults_number_is_the_commands():
    text = (ROOT / "docs" / "how-to" / "retain-rows.md").read_text()
    words = {1: "one retain row", 2: "two"}
    alone, other = words[ADDS_UP["retain_per_forget"]], words[ForgetConfig().retain_per_forget]
    assert re.search(rf"{alone}, drawn anew \(`--retain-per-forget`; {other} with\s+`--no-adds-up`\)", text)


def folders(top):
    return {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / top).glob("*/__init__.py")}


def test_the_architecture_lists_every_room_and_the_floors_of_the_contract():
    text = (ROOT / "docs" / "architecture.md").read_text()
    assert set(re.findall(r"^\| `(asu_lora/\w+)/` \|", text, re.M)) == folders("asu_lora")
    contract = (ROOT / "pyproject.toml").read_text().split("layers = [", 1)[1].split("]", 1)[0]
    floors = [line.replace("asu_lora.", "") for line in re.findall(r'"(.*?)"', contract)]
    shown = text.split("## The floors", 1)[1].split("```\n", 2)[1].splitlines()
    assert shown == floors


COMMAND = re.compile(r"^(?:accelerate launch .*? -m asu_lora|asu-lora) (.*)$", re.M)


def typed(page):
    """The commands in a page's blocks of code, each on a line of its own."""
    for kind, block in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.M | re.S):
        if kind not in ("", "sh"):
            continue
        for words in COMMAND.findall(block.replace("\\\n", " ")):
            yield shlex.split(words.split(" #")[0])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_a_page_shows_is_one_that_the_program_takes(page, tmp_path, monkeypatch):
    """Each is parsed by the program's own parser: its command, its options, their values."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.yaml").write_text("epochs: 4\n")  # what the pages let a reader write
    for words in typed(page):
        if words[0].startswith("-"):
            continue  # --version, --help
        if "--config" in words:
            (tmp_path / words[words.index("--config") + 1]).touch()  # read while the line is parsed
        command, rest, context = main, words, click.Context(main, info_name="asu-lora", **main.context_settings)
        while isinstance(command, click.Group):
            name, found, rest = command.resolve_command(context, rest)
            command, context = found, click.Context(found, parent=context, info_name=name)
        command.make_context(name, rest, parent=context.parent)  # raises a UsageError where it doesn't fit


def test_the_pages_show_commands_at_all():
    assert sum(len(list(typed(page))) for page in PAGES) > 50


def test_every_page_of_results_has_its_line():
    listed = re.findall(r"\]\(results/(\w+\.md)\)", (ROOT / "docs" / "README.md").read_text())
    assert sorted(listed) == sorted(page.name for page in (ROOT / "docs" / "results").glob("*.md"))


def test_every_place_names_the_versions_of_python_that_the_package_takes():
    """What ruff assumes, too: without a target of its own it reads ``requires-python``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = [
        re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", each) for each in project["project"]["classifiers"]
    ]
    versions = [each[1] for each in listed if each]
    assert project["project"]["requires-python"] == f">={versions[0]}"
    assert "target-version" not in project["tool"]["ruff"]
    for page in ("Makefile", "README.md", "docs/how-to/install.md"):
        assert f"Python {versions[0]} to {versions[-1]}" in (ROOT / page).read_text(), page
    tried = re.search(r"python: \[(.*)\]", (ROOT / ".github" / "workflows" / "test.yml").read_text())[1]
    assert re.findall(r'"(.*?)"', tried) == versions
