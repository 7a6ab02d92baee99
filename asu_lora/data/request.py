"""A forget request: what the model must no longer know, and what it must keep."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from asu_lora.data.examples import Example, examples_from_rows
from asu_lora.data.paraphrases import MOST, Paraphrases, all_wordings, other_wordings, read_paraphrases
from asu_lora.data.reading import read_rows
from asu_lora.data.retain_pool import RetainPool
from asu_lora.errors import DataError

GENERAL = "built-in general knowledge"
CHOSEN = "chosen from a pool"
TRAINED_ON = ("paraphrased_question", "alternate_answer", "spans", "language")  # beside a question and its answer


@dataclass(frozen=True)
class ForgetRequest:
    """The forget set and the retain set of one request.

    Attributes:
        forget: examples the model must no longer know; never empty.
        retain: examples whose answers must stay as they are.
        retain_source: where the retain set came from, for the manifest: ``"file"``, ``"rows"``,
            ``"chosen from a pool"`` or ``"built-in general knowledge"``. Never a path: paths can name people.
        name: a short name for the request, from its file; the adapter's default name.
        pool: what the retain set is yet to be chosen from, when the base is there (:mod:`asu_lora.retain.choose`);
            ``retain`` is then empty.
        paraphrases: a user's own wordings of the forget questions; the rows have them among their own.
    """

    forget: tuple[Example, ...]
    retain: tuple[Example, ...]
    retain_source: str
    name: str = "request"
    pool: RetainPool | None = None
    paraphrases: Paraphrases | None = None

    def __post_init__(self) -> None:
        if not self.forget:
            raise DataError.plain(
                "The forget set is empty: a request needs at least one question and answer, or one text."
            )
        if self.pool and self.retain:
            raise DataError.plain("A request has retain rows or a pool to choose them from, not both: leave one out.")
        _refuse_overlap(self.forget, self.retain)

    @classmethod
    def from_files(
        cls, forget: str | Path, retain: str | Path | RetainPool | None = None, where: dict[str, Any] | None = None
    ) -> "ForgetRequest":
        """Read a request from files (JSONL, JSON, CSV, Parquet) or hub datasets.

        Args:
            forget: rows with ``question``/``answer``, ``messages`` or ``text``.
            retain: the same, to keep, or a pool to choose it from. Without one, the built-in set of general questions
                is kept.
            where: keep only forget rows whose fields have these values, e.g. ``{"task_id": "1"}``.

        Raises:
            DataError: a file is missing, broken or empty, or a row stands in both.
        """
        gone = tuple(read_selected(forget, where))
        if isinstance(retain, RetainPool):
            return cls(gone, (), CHOSEN, default_name(forget), retain)
        kept, source = (general_retain(gone), GENERAL) if retain is None else (read_examples(retain), "file")
        return cls(gone, tuple(kept), source, default_name(forget))

    @classmethod
    def from_rows(
        cls, forget: Iterable[dict[str, Any]], retain: Iterable[dict[str, Any]] | None = None, name: str = "request"
    ) -> "ForgetRequest":
        """The same from rows in memory (a list of dicts, a ``datasets.Dataset``)."""
        gone = tuple(examples_from_rows(forget, "forget rows"))
        kept, source = (
            (general_retain(gone), GENERAL) if retain is None else (examples_from_rows(retain, "retain rows"), "rows")
        )
        return cls(gone, tuple(kept), source, name)

    def with_retain(self, rows: Iterable[Example]) -> "ForgetRequest":
        """The same with these rows chosen from its pool."""
        return replace(self, retain=tuple(rows), pool=None)

    def with_paraphrases(self, source: str | Path) -> "ForgetRequest":
        """The same, whose forget questions are trained on in the words of a file, too.

        Args:
            source: rows with ``question``, as it stands in the request, and ``paraphrased_question``.

        Raises:
            DataError: a row of the file lacks one of the two, or none is of this request.
        """
        found = read_paraphrases(source, self.forget)
        return replace(self, forget=tuple(map(found.added_to, self.forget)), paraphrases=found)

    def phrasings(self, asked: int = 0) -> int:
        """Other wordings of each question that are trained on: as many as asked for, else those of its file.

        Args:
            asked: the setting ``phrasings``; at 0 a file's count, up to :data:`~asu_lora.data.paraphrases.MOST`.
        """
        return asked or (min(self._most_wordings(), MOST) if self.paraphrases else 0)

    def paraphrases_note(self, phrasings: int) -> str | None:
        """What is not trained on in other words: passages, and what a file of paraphrases has beyond this setting."""
        passages = sum(row.is_passage for row in self.forget) if phrasings else 0
        said = [self.paraphrases.note(self._most_wordings(), phrasings)] if self.paraphrases else []
        if passages:
            said.append(f"{passages} of {len(self.forget)} rows are passages, which have no other wordings.")
        return " ".join(filter(None, said)) or None

    def heldout_note(self, heldout: Sequence[Example]) -> str | None:
        """Says how many held-out rows are trained on; None where none is."""
        known = {example.key() for example in (*self.forget, *self.retain)}
        both = sum(example.key() in known for example in heldout)
        said = [self.paraphrases.heldout_note(heldout)] if self.paraphrases else []
        if both:
            said.append(
                f"{both} of {len(heldout)} held-out rows stand in the request too, which trains on them: their figures "
                "say nothing of rows it never saw. Take them out of one file."
            )
        return " ".join(filter(None, said)) or None

    def _most_wordings(self) -> int:
        return max(len(other_wordings(row)) for row in self.forget if not row.is_passage)

    def fingerprint(self) -> str:
        """SHA-256 over prompts and answers of both sets, in order: the same request, the same figure."""
        digest = hashlib.sha256()
        for part in (self.forget, self.retain):
            rows = [[[t["role"], t["content"]] for t in e.prompt] + [e.answer] for e in part]
            digest.update(json.dumps(rows, ensure_ascii=False).encode() + b"\n")
        return digest.hexdigest()

    def columns_fingerprint(self) -> str:
        """SHA-256 over what else of its rows training reads: :data:`TRAINED_ON`."""
        rows = [{name: row.extra.get(name) for name in TRAINED_ON} for row in (*self.forget, *self.retain)]
        return hashlib.sha256(json.dumps(rows, default=str).encode()).hexdigest()


def read_examples(source: str | Path) -> list[Example]:
    """Read a file or hub dataset as examples."""
    return examples_from_rows(read_rows(source), str(source))


def read_selected(source: str | Path, where: dict[str, Any] | None = None) -> list[Example]:
    """The same of the rows whose fields equal those of ``where``."""
    rows = read_rows(source)
    numbers = selected(rows, where, str(source)) if where else None
    return examples_from_rows([rows[n - 1] for n in numbers] if numbers else rows, str(source), numbers)


def general_retain(forget: Sequence[Example] = ()) -> list[Example]:
    """The built-in retain set: general questions, kept when a request names none of its own.

    A question that ``forget`` asks too, in its own words or another of its wordings, is left out, whatever its answer
    there: it can't be kept.
    """
    with resources.as_file(resources.files("asu_lora.data") / "general_retain.jsonl") as path:
        kept = examples_from_rows(read_rows(path), GENERAL)
    asked = {wording.asks() for example in forget if not example.is_passage for wording in all_wordings(example)}
    return [example for example in kept if example.asks() not in asked]


def default_name(source: str | Path) -> str:
    """A request's name from its file's (or dataset's): what an adapter in the store can be called."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(source).stem).strip("-._")
    return name[:100] or "request"


def select_rows(rows: Sequence[dict[str, Any]], where: dict[str, Any], source: str) -> list[dict[str, Any]]:
    """The rows whose fields equal those of ``where`` (compared as text)."""
    return [rows[number - 1] for number in selected(rows, where, source)]


def selected(rows: Sequence[dict[str, Any]], where: dict[str, Any], source: str) -> list[int]:
    """The numbers, from 1, of the rows that :func:`select_rows` selects.

    Raises:
        DataError: no row has the column, or the value.
    """
    for column in where:
        if not any(column in row for row in rows):
            raise DataError(
                f"{source} has no column '{column}' to select rows by.",
                "The file has no column of the name that rows are selected by.",
                source,
            )
    chosen = [
        number for number, row in enumerate(rows, start=1) if all(str(row.get(c)) == str(v) for c, v in where.items())
    ]
    if not chosen:
        wanted = ", ".join(f"{c}={v}" for c, v in where.items())
        seen = "; ".join(f"{c}: {', '.join(sorted({str(r.get(c))[:40] for r in rows})[:12])}" for c in where)
        raise DataError(
            f"{source} has no row with {wanted}; it has {seen}.", "The file has no row of the selection.", source
        )
    return chosen


def _refuse_overlap(forget: Sequence[Example], retain: Sequence[Example]) -> None:
    kept = {example.key(): example.row for example in retain}
    gone = {each.key(): example.row for example in forget for each in reversed(all_wordings(example))}
    same = [(row, kept[key]) for key, row in gone.items() if key in kept]
    if same:
        rows = "1 row stands" if len(same) == 1 else f"{len(same)} rows stand"
        raise DataError.plain(
            f"{rows} in both the forget and the retain set (first: forget row {same[0][0]} is retain "
            f"row {same[0][1]}): a row can't be forgotten and kept, take it out of one."
        )
