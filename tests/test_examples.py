"""The examples of docs/reference/python.md run as they are printed, one after another, on the tiny base."""

import doctest
import re

import pytest

from tests.support.root import ROOT

PAGE = ROOT / "docs" / "reference" / "python.md"
BLOCKS = re.findall(r"^## (.*?)\n.*?^```pycon\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


@pytest.fixture(scope="module")
def names(taught_base, tmp_path_factory):
    """What the examples take for given; what one makes, the next one uses."""
    return {"base": str(taught_base), "folder": tmp_path_factory.mktemp("examples") / "adapters"}


def test_the_page_shows_the_four_things_that_people_do():
    assert [title for title, _ in BLOCKS] == ["Forget", "Ask", "Look after the store", "Audit"]


def test_every_example_prints_what_the_page_says(names):
    for title, block in BLOCKS:
        told = []
        example = doctest.DocTestParser().get_doctest(block, names, title, str(PAGE), 0)
        example.globs = names
        result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=told.append, clear_globs=False)
        assert result.attempted >= 3 and not result.failed, "".join(told)
