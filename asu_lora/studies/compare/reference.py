"""The row of a model that never saw the request: where forgetting should end.

It is scored as the base is, and takes no part in what is best. Its run is known by the model's fingerprint, so that
another reference is another row.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asu_lora.bases.source import resolve_base
from asu_lora.errors import SettingError
from asu_lora.models.loading import LoadedBase, load_base
from asu_lora.studies.compare.grid import Run
from asu_lora.studies.methods import REFERENCE, method

if TYPE_CHECKING:
    from asu_lora.studies.compare.compare import Comparison


def with_reference(runs: Sequence[Run], base: str | None) -> list[Run]:
    """The runs, and where a reference is named its own behind the base's.

    Raises:
        SettingError: its row is asked for, and no reference is named.
        BaseModelError: there is no such model.
    """
    others = [run for run in runs if run.method.name != REFERENCE]
    if base is None:
        if len(others) < len(runs):
            raise _unnamed()
        return others
    told = {"base": resolve_base(base).fingerprint()[:16]}
    return [*others[:1], Run.of(method(REFERENCE), None, told), *others[1:]]


def reference_of(comparison: "Comparison") -> LoadedBase:
    """The reference, loaded as the base is.

    Raises:
        SettingError: none is named.
        BaseModelError: it can't be loaded.
    """
    if comparison.reference_base is None:
        raise _unnamed()
    base, config = comparison.base, comparison.config
    return load_base(
        comparison.reference_base, base.precision, str(base.device), trust_remote_code=config.trust_remote_code
    )


def template_note(reference: LoadedBase, base: LoadedBase) -> str | None:
    """Says that the reference's questions are not written as the base's; None where they are."""
    if reference.tokenizer.chat_template == base.tokenizer.chat_template:
        return None
    return (
        f"The reference {Path(reference.source.name).name} has another chat template than the base: its row is of "
        "questions that are written in another way. Give it the base's template for a row to hold the others against."
    )


def _unnamed() -> SettingError:
    return SettingError(f"The row {REFERENCE} needs a model that never saw the request: name it with --reference-base.")
