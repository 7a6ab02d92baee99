"""The model card beside an adapter: what it makes a model forget, in figures, and how to use it."""

import re
from functools import cache
from pathlib import Path, PureWindowsPath
from typing import Any

from asu_lora.adapters.manifest import CARD_NAME, MANIFEST_NAME, Manifest
from asu_lora.files import sha256_file, write_atomic

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

FIGURE_NAMES = {
    "forget_probability": "Answer probability, forget set",
    "forget_rouge": "ROUGE-L recall, forget set",
    "retain_probability": "Answer probability, retain set",
    "retain_rouge": "ROUGE-L recall, retain set",
    "heldout_probability": "Answer probability, held-out rows",
    "heldout_rouge": "ROUGE-L recall, held-out rows",
    "gibberish_rate": "Share of babbling answers",
    "empty_answers": "Empty answers",
}


def figure_rows(manifest: Manifest) -> list[tuple[str, Any, Any]]:
    """The figures that are there as (what, before, after), well-known ones first, nested ones flattened."""
    before, after = _flat(manifest.figures.before), _flat(manifest.figures.after)
    keys = [key for key in FIGURE_NAMES if key in before or key in after]
    keys += sorted((before.keys() | after.keys()) - set(keys))
    return [(FIGURE_NAMES.get(key, key.replace("_", " ")), before.get(key), after.get(key)) for key in keys]


def figure(value: Any) -> str:
    """A figure as people read it: three decimals, whole numbers whole, a dash for what was not measured."""
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def render_model_card(manifest: Manifest) -> str:
    """The text of ``README.md``: front matter as the hub reads it, then prose and tables."""
    base = public_base_name(manifest.base.id)
    return _template().render(
        manifest=manifest,
        figures=figure_rows(manifest),
        figure=figure,
        # The hub takes only its own ids here; a local path would also tell where the maker keeps things.
        hub_base=base if _HUB_ID.fullmatch(base) else None,
        base=base,
    )


def public_base_name(base: str) -> str:
    """What a base may be called outside this machine: a hub's id stays, of a path only the last part."""
    if _HUB_ID.fullmatch(base) and not Path(base).exists():
        return base
    return PureWindowsPath(base).name or "base"  # takes both kinds of separator


def write_model_card(folder: str | Path, manifest: Manifest) -> None:
    """Write ``README.md`` into an adapter folder; do so before the manifest, which records its checksum."""
    write_atomic(Path(folder) / CARD_NAME, render_model_card(manifest))


def restate(folder: Path, manifest: Manifest) -> dict[str, str]:
    """The files to write when what a stored adapter's manifest says has changed: {file name: text}.

    Checksums stay as recorded: computing them anew would bless a file that has been damaged since. The card
    is rendered anew if it is the one that was recorded; one that somebody has edited is left alone.
    """
    card = Path(folder) / CARD_NAME
    files = dict(manifest.files)
    texts = {}
    if card.is_file() and files.get(CARD_NAME) == sha256_file(card):
        texts[CARD_NAME] = render_model_card(manifest)
        files[CARD_NAME] = _sha256(texts[CARD_NAME])
    texts[MANIFEST_NAME] = manifest.model_copy(update={"files": files}).to_json()
    return texts


def _sha256(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _flat(figures: dict[str, Any]) -> dict[str, Any]:
    flat = {}
    for key, value in figures.items():
        if isinstance(value, dict):
            flat.update({f"{key} {inner}": number for inner, number in value.items()})
        else:
            flat[key] = value
    return flat


@cache
def _template():
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("model_card.md.jinja")
