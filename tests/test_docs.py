"""The documentation names only what is there, and leaves out no page."""

import re

import pytest

from tests.support.root import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# whole paths, and those inside the library as the pages shorten them: ``losses/forget/npo.py``, ``retain/``
NAMED = re.compile(r"`((?:[\w.]+/)+(?:[\w.]+\.(?:py|md|json|csv|svg))?)`")
FILLED_BY_COMMANDS = ("runs/", ".runs/")
PLACES = [ROOT, ROOT / "asu_lora", ROOT / "docs", *(path.parent for path in (ROOT / "asu_lora").glob("*/__init__.py"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_and_folder_a_page_names_is_there(page):
    text = page.read_text()
    named = [path for path in NAMED.findall(text) if not path.startswith(FILLED_BY_COMMANDS)]
    linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    assert not [path for path in named if not any((place / path).exists() for place in [*PLACES, page.parent])]
    assert not [path for path in linked if not (page.parent / path).exists()]


def folders(top):
    return {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / top).glob("*/__init__.py")}


def test_the_readmes_tree_shows_every_room_and_no_other():
    tree = re.search(r"## The pieces\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.S).group(1)
    rooms = {f"asu_lora/{name}" for name in re.findall(r"^  (\w+)/", tree, re.M)}
    assert rooms == folders("asu_lora")
    for name in re.findall(r"^(\w+)/", tree, re.M):
        assert (ROOT / name).is_dir(), name


def test_the_architecture_lists_every_room_and_the_floors_of_the_contract():
    text = (ROOT / "docs" / "architecture.md").read_text()
    assert set(re.findall(r"^\| `(asu_lora/\w+)/` \|", text, re.M)) == folders("asu_lora")
    contract = (ROOT / "pyproject.toml").read_text().split("layers = [", 1)[1].split("]", 1)[0]
    floors = [line.replace("asu_lora.", "") for line in re.findall(r'"(.*?)"', contract)]
    shown = text.split("## The floors", 1)[1].split("```\n", 2)[1].splitlines()
    assert shown == floors


def test_every_page_of_results_has_its_line():
    listed = re.findall(r"\]\(results/(\w+\.md)\)", (ROOT / "docs" / "README.md").read_text())
    assert sorted(listed) == sorted(page.name for page in (ROOT / "docs" / "results").glob("*.md"))
