"""What the runs of a comparison share, and what tells one comparison from another."""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asu_lora.data.refusals import refusals
from asu_lora.data.request import ForgetRequest
from asu_lora.errors import SettingError
from asu_lora.evaluation.question_sets import FORGET, QuestionSet
from asu_lora.evaluation.record import Record
from asu_lora.files import write_files
from asu_lora.studies.compare import VARIED
from asu_lora.studies.compare.grid import Run
from asu_lora.studies.compare.results import read_result
from asu_lora.studies.methods import method
from asu_lora.version import __version__, base_version

if TYPE_CHECKING:
    from asu_lora.studies.compare.compare import Comparison

SETTINGS = "settings.json"  # of a comparison's folder: whose it is
VERSION = "asu-lora"  # the release alone: two commits on the way to it make the same runs, as far as anyone knows
COLUMNS = "other columns of the forget rows"
READING = "config, tokenizer and chat template of the base"
NEWER = (COLUMNS, READING)  # which folders of earlier versions lack
READ = ("alternate_answer", "language", "paraphrased_question", "spans")  # by training and asking
_NOT_ASKED = ("device", "precision", "report_to", "trust_remote_code")  # told by the base, or without effect


def shared_identity(comparison: "Comparison", hidden: Callable[[str], str]) -> dict[str, Any]:
    """Everything that all rows depend on, flat; of the request's text nothing but keyed hashes.

    Args:
        hidden: keys a hash of text, so that nobody can confirm a guess: the store's
            :meth:`~asu_lora.adapters.store.AdapterStore.keyed`.
    """
    base, config = comparison.base, comparison.config
    settings = {key: value for key, value in config.identity().items() if key not in VARIED + _NOT_ASKED}
    return {
        "base": base.source.fingerprint(),
        READING: base.source.reading(),
        "precision": base.precision,
        "compute type": str(base.compute_dtype).removeprefix("torch."),
        "device": base.device.type,
        "request": hidden(comparison.request.fingerprint()),
        COLUMNS: hidden(_digest(_columns(comparison.request))),
        '"I don\'t know" answers': _digest(list(refusals(comparison.idk_file))),
        **settings,
        **{
            f"questions of the {each.name} set": f"{len(each.examples)}, {hidden(_questions(each)[:12])[-12:]}"
            for each in comparison.sets
        },
        "encoder": comparison.encoder and comparison.encoder.name,
        "nli": comparison.nli and comparison.nli.name,
        VERSION: base_version(__version__),
    }


def run_identity(shared: dict[str, Any], run: Run) -> str:
    """The hash a run's file is known by."""
    changes = [[list(change) for change in run.changes]] if run.changes else []  # as before where there are none
    return _digest([shared, run.method.name, run.method.objective, run.method.retain_loss, run.lr, *changes])


def _columns(request: ForgetRequest) -> list[dict[str, Any]]:
    """What is read of the forget rows beside their conversations."""
    return [{name: e.extra[name] for name in READ if e.extra.get(name)} for e in request.forget]


def log_identity(log: Sequence[Record] | None, hidden: Callable[[str], str]) -> str | None:
    """What tells a retain-only model's log from another; None without one.

    Args:
        hidden: see :func:`shared_identity`.
    """
    return None if log is None else hidden(_digest([row for row in log if row["set"] == FORGET]))


def claim(file: Path, shared: dict[str, Any], runs: Path, earlier: dict[str, Any]) -> None:
    """Make a comparison's folder that of this identity, or make sure that it is.

    Args:
        runs: the folder of the runs' files.
        earlier: the same identity as earlier versions wrote it, with plain hashes: such a folder is written anew, as
            is one that names its version to the commit.

    Raises:
        SettingError: it holds another comparison; the first difference is named.
    """
    before = claimed(file)
    if before == shared:
        return
    known = known_as(file, shared, earlier)
    if before is None or known:
        if known:
            _rename(runs, known, shared)
        write_files(file.parent, {file.name: json.dumps(shared, indent=1) + "\n"})
        return
    before = of_the_release(before)
    for key in [*shared, *before]:
        if before.get(key) != shared.get(key):
            said = (
                f"{key} is {before.get(key)} there and {shared.get(key)} here"
                if len(str(before.get(key))) < 40
                else f"the {key} differs"
            )
            raise SettingError(
                f"{file.parent} holds another comparison ({said}): give the same settings to go on "
                "with it, or another --out."
            )


def claimed(file: Path) -> dict[str, Any] | None:
    """The identity that a comparison's folder has, as it was written; None where it has none, {} where it is broken."""
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def known_as(file: Path, shared: dict[str, Any], earlier: dict[str, Any]) -> dict[str, Any] | None:
    """The identity by which a folder's runs are known, if it is this comparison's, now or as earlier versions wrote it.

    The arguments are those of :func:`claim`.
    """
    before = claimed(file)
    if not before:
        return None
    told = of_the_release(before)
    same = any(told == each for identity in (shared, earlier) for each in as_written(identity))
    return before if same else None


def as_written(identity: dict[str, Any]) -> list[dict[str, Any]]:
    """An identity as this version writes it, then as those did in which less of it counted."""
    left_out = [gone for length in range(len(NEWER) + 1) for gone in combinations(NEWER, length)]
    return [{key: value for key, value in identity.items() if key not in gone} for gone in left_out]


def of_the_release(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity with its version as it is written today; earlier ones name it to the commit."""
    return identity | {VERSION: base_version(str(identity[VERSION]))} if VERSION in identity else identity


def _rename(runs: Path, earlier: dict[str, Any], shared: dict[str, Any]) -> None:
    """Know an earlier version's runs by today's identity."""
    for path in sorted(runs.glob("*.json")):
        with suppress(OSError, ValueError, TypeError, KeyError, SettingError):
            entry = json.loads(path.read_text(encoding="utf-8"))
            run = Run.of(method(entry["method"]), entry["lr"], entry.get("changes", {}))
            if result := read_result(path, run_identity(earlier, run)):
                result.identity = run_identity(shared, run)
                result.write(path)


def _questions(questions: QuestionSet) -> str:
    return _digest(
        [
            questions.multiple_choice,
            [
                [
                    e.prompt,
                    e.answer,
                    {key: e.extra.get(key) for key in ("paraphrased_answer", "perturbed_answer", "original_answer")},
                ]
                for e in questions.examples
            ],
        ]
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
