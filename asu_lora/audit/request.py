"""What an audit is asked for: a model, what it was to forget, and what it is held against.

A request refuses contradictions when it is made, and everything that can't be read before a base is loaded.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asu_lora.audit.insisting import read_insisting
from asu_lora.audit.session import Inputs
from asu_lora.data.examples import Example, examples_from_rows
from asu_lora.data.paraphrases import Paraphrases, read_paraphrases
from asu_lora.data.plain_rows import plain_rows
from asu_lora.data.reading import read_rows
from asu_lora.data.request import general_retain, read_examples, selected
from asu_lora.errors import DataError, SettingError
from asu_lora.evaluation.question_sets import FORGET, QuestionSet
from asu_lora.evaluation.record import Record
from asu_lora.evaluation.retain_comparison import check_questions
from asu_lora.evaluation.retain_log import read_log
from asu_lora.models.stack_rows import RowSettings

Source = str | Path | Iterable[Example | Mapping[str, Any]]  # a file, or what is in memory
AUTO = "auto"  # a control that the audit trains


@dataclass(frozen=True)
class AuditRequest:
    """One audit, as a person asks for it.

    Attributes:
        forget: what was to be forgotten: a file, examples or rows; ``where`` selects rows of a file.
        base: the model as it was before, by its name; adapters are put on it, and it is the ceiling.
        adapters, store: what is audited, as :func:`asu_lora.load` takes it. Without any, and without ``merged``, the
            base itself is.
        merged: a folder of merged weights, instead of adapters.
        retain: what was kept, as ``forget``: neighbours for in-context questions and for tuning. Built-in general
            questions otherwise.
        floor: rows like the forgotten that the base never saw: what it says of them is chance.
        floor_base: a model that never saw the request, which is the better floor.
        control: an adapter (name or folder) of the same size and steps, trained on other rows: attacked alike. "auto"
            has the audit train one on half of the kept rows at most; an adapter of that name is taken by its folder.
        paraphrases: a file with ``question`` and ``paraphrased_question``, for questions of the request.
        insisting: a file with ``user``, which has ``{question}`` in it, and if need be ``kind``, ``system``, ``begin``.
        tune_on: a file of rows that the attacker's own fine-tuning is made on.
        retain_log: what a model trained without the request scored: a log as ``evaluate`` takes it.
        records: a folder for what was asked and answered, which holds text of the request. None writes no text.

    Raises:
        SettingError: two of them contradict each other.
    """

    forget: Source
    base: str = "smollm2-135m"
    adapters: Sequence[str | Path] = ()
    store: str | Path = "adapters"
    merged: str | Path | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    retain: Source | None = None
    floor: Source | None = None
    floor_base: str | None = None
    control: str | Path | None = None
    paraphrases: str | Path | None = None
    insisting: str | Path | None = None
    tune_on: str | Path | None = None
    retain_log: str | Path | None = None
    records: str | Path | None = None
    precision: str = "nf4"
    device: str | None = None
    trust_remote_code: bool = False
    max_length: int | None = None
    system_prompt: str | None = None
    template_date: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.adapters, str):  # one name, which would be read letter by letter
            object.__setattr__(self, "adapters", (self.adapters,))
        if not isinstance(self.base, str | Path):
            raise SettingError(
                f"An audit's base is named by its hub id or folder; this is a {type(self.base).__name__}. One that is "
                "in memory is given beside its name: audit(request, loaded=BASE)."
            )
        if self.merged and self.adapters:
            raise SettingError("Name adapters, or a merged folder with --merged, not both: one thing is audited.")
        if self.where and not isinstance(self.forget, str | Path):
            raise SettingError("--where selects rows of a file; these rows come without one.")
        if self.control and self.merged:
            raise SettingError("A control is an adapter beside an audited one; merged weights have none beside them.")

    @property
    def audited(self) -> str:
        """``adapter``, ``stack``, ``merged`` or ``base``."""
        if self.merged:
            return "merged"
        return ("base", "adapter")[len(self.adapters)] if len(self.adapters) < 2 else "stack"

    def row_settings(self) -> RowSettings:
        return RowSettings(
            max_length=self.max_length, system_prompt=self.system_prompt, template_date=self.template_date
        )

    def read(self) -> Inputs:
        """All rows that are named.

        Raises:
            DataError: a file is missing, broken or empty, or a row to forget stands among those kept or never seen.
        """
        forget = self._forget()
        retain = _examples(self.retain) if self.retain is not None else None
        floor = _examples(self.floor) if self.floor is not None else []
        for rows, what in ((retain or [], "kept"), (floor, "never seen")):
            known = {example.key(): example.row for example in rows}
            same = [example.row for example in forget if example.key() in known]
            if same:
                raise DataError.plain(
                    f"{len(same)} rows (first: row {same[0]}) are both to be forgotten and {what}: a row is one of the "
                    "two, take it out of the other file."
                )
        return Inputs(
            forget=forget,
            retain=retain if retain is not None else general_retain(forget),
            retain_given=retain is not None,
            floor=floor,
            paraphrases=read_paraphrases(self.paraphrases, forget) if self.paraphrases else Paraphrases({}),
            insisting=read_insisting(self.insisting) if self.insisting else (),
            retain_log=self._log(forget),
            tune_on=read_examples(self.tune_on) if self.tune_on else [],
            general=general_retain(forget),
        )

    def _log(self, forget: Sequence[Example]) -> list[Record]:
        """The log, which must be of these rows."""
        if self.retain_log is None:
            return []
        log = read_log(self.retain_log)
        check_questions(log, [QuestionSet(FORGET, tuple(forget))])
        return log

    def _forget(self) -> list[Example]:
        if not isinstance(self.forget, str | Path):
            found = _in_memory(self.forget, "forget rows")
        else:
            rows, numbers = read_rows(self.forget), None
            if self.where:
                numbers = selected(rows, dict(self.where), str(self.forget))
                rows = [rows[number - 1] for number in numbers]
            found = examples_from_rows(rows, str(self.forget), numbers)
        if not found:
            raise DataError.plain("There is nothing to attack: name at least one row that was to be forgotten.")
        return found


def _examples(source: Source) -> list[Example]:
    return read_examples(source) if isinstance(source, str | Path) else _in_memory(source, "rows")


def _in_memory(source: Iterable[Any], what: str) -> list[Example]:
    """Examples as they are; rows (dicts, pandas' DataFrame, a ``datasets.Dataset``) made into examples."""
    found = list(plain_rows(source))
    return found if all(isinstance(row, Example) for row in found) else examples_from_rows(found, what)
