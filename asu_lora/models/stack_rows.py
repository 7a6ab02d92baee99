"""How the rows of a stack are written: as its adapters were trained, unless the user says otherwise."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

from transformers import PreTrainedTokenizerBase

from asu_lora.adapters.manifest import has_manifest, read_manifest
from asu_lora.config import check_date
from asu_lora.data.chat_template import pinned_date
from asu_lora.data.row_format import RowFormat, RunSettings

LENGTH = 1024  # tokens of a row that is scored, where no adapter's manifest and no setting tells a length


class RowSettings(TypedDict, total=False):
    """What a user may set; None leaves it to the adapters. An empty system prompt is none at all."""

    max_length: int | None
    system_prompt: str | None
    template_date: str | None


def rows_of_settings(settings: RunSettings) -> RowSettings:
    """Rows as a run's settings write them, for a base that has no adapter yet as for one that has."""
    return RowSettings(
        max_length=settings.max_length, system_prompt=settings.system_prompt, template_date=settings.template_date
    )


def rows_of_adapters(
    folders: Sequence[Path], tokenizer: PreTrainedTokenizerBase, wanted: RowSettings | None = None
) -> tuple[RowFormat, list[str]]:
    """The format in which a stack is scored and asked, and what a person should know of it.

    The length is the largest of the adapters'; system prompt and date are those of the last one. Old manifests tell
    no prompt and no date.

    Args:
        folders: of the adapters, in the order of the stack; plain PEFT folders tell nothing.
        wanted: what the user set.

    Raises:
        SettingError: a date that is none.
    """
    wanted = wanted or {}
    if day := wanted.get("template_date"):
        check_date(day)
    told = {
        folder.name: RowFormat.recorded(read_manifest(folder).training) for folder in folders if has_manifest(folder)
    }
    notes = []
    rows = RowFormat(LENGTH)
    if told:
        rows = replace(list(told.values())[-1], max_length=max(form.max_length for form in told.values()))
    for name, what in (("system_prompt", "system prompts"), ("template_date", "template dates")):
        if len({getattr(form, name) for form in told.values()}) > 1 and wanted.get(name) is None:
            notes.append(
                f"The adapters were trained with different {what}; that of '{list(told)[-1]}' is used "
                f"(--{name.replace('_', '-')} sets another)."
            )
    system = wanted.get("system_prompt")
    return (
        RowFormat(
            wanted.get("max_length") or rows.max_length,
            (rows.system_prompt if system is None else system) or None,
            pinned_date(tokenizer, wanted.get("template_date") or rows.template_date),
        ),
        notes,
    )
