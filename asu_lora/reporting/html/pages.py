"""Pages out of templates: whatever is put into them is a text, never markup, unless a figure made it."""

import hashlib
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

HERE = Path(__file__).parent


def environment(folder: Path) -> Environment:
    """Templates of ``folder`` and the shared ones, everything escaped."""
    found = Environment(
        loader=FileSystemLoader([folder, HERE]),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.globals["style"] = style()
    return found


@cache
def style() -> str:
    """The style sheet that all pages share."""
    return (HERE / "style.css").read_text(encoding="utf-8")


def stamp(*folders: Path) -> str:
    """Which templates, styles and figures a page was made with, as 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for folder in (HERE, *folders):
        for path in sorted(folder.iterdir()):
            if path.suffix in (".py", ".css", ".jinja", ".js"):
                digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
