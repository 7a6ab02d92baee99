"""The documentation site, built and read in a real browser: on a phone, on paper, and for markup that is left raw."""

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.support.browser import chromium
from tests.support.root import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs mkdocs ('make docs' installs it)"),
]

PHONE, PAPER = 390, 794  # pixels

# Text outside code that looks like Markdown, or like a role of Sphinx.
RAW = """() => {
  const walker = document.createTreeWalker(document.querySelector("article"), NodeFilter.SHOW_TEXT), found = [];
  while (walker.nextNode()) {
    const text = walker.currentNode.data;
    if (!walker.currentNode.parentElement.closest("pre, code, script, style")
        && /\\*\\*|\\]\\(|^#+ |\\|---|`|:(func|class|data|meth):|^[-+*] /.test(text)) found.push(text.trim());
  }
  return found;
}"""
STICKS_OUT = """width => [...document.querySelectorAll("table, pre, img")]
  .filter(each => each.getBoundingClientRect().right > width + 1).map(each => each.innerText || each.src)"""


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Of each page: its width on a phone, markup that is left raw, and what is cut off on paper."""
    site, found = tmp_path_factory.mktemp("site"), {}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    with chromium() as browser:
        shown = browser.new_page()
        shown.set_default_timeout(60_000)
        for page in sorted(site.rglob("index.html")):
            shown.emulate_media(media="screen")
            shown.set_viewport_size({"width": PHONE, "height": 800})
            shown.goto(page.as_uri())
            width = shown.evaluate("document.documentElement.scrollWidth")
            raw = shown.evaluate(RAW)
            shown.emulate_media(media="print")
            shown.set_viewport_size({"width": PAPER, "height": 1100})
            found[str(page.parent.relative_to(site))] = (width, raw, shown.evaluate(STICKS_OUT, PAPER))
    return found


def test_no_page_is_wider_than_a_phone(read):
    assert len(read) > 50
    assert not {page: width for page, (width, _, _) in read.items() if width > PHONE}


def test_no_markup_is_left_raw(read):
    assert not {page: raw for page, (_, raw, _) in read.items() if raw}


def test_on_paper_every_table_block_of_code_and_figure_is_whole(read):
    assert not {page: cut for page, (_, _, cut) in read.items() if cut}
