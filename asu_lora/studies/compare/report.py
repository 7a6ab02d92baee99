"""The files a comparison ends in: table as Markdown and CSV, everything as JSON, the figure."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from asu_lora.adding_up import ADDS_UP
from asu_lora.files import disk_errors, write_files
from asu_lora.reporting.plot_style import save_figure
from asu_lora.reporting.tables import markdown_table, percent
from asu_lora.studies.compare.compare import Comparison
from asu_lora.studies.compare.figure import compare_figure
from asu_lora.studies.compare.leak import MOST_ROWS
from asu_lora.studies.compare.ranking import SENTENCES, pareto_front, that_speak
from asu_lora.studies.compare.results import LEAK, QUALITY, SCORES
from asu_lora.studies.compare.rows import Row, SeedRow, seed_rows
from asu_lora.studies.compare.table import FRONT, csv_text, paper_table, speaking_table
from asu_lora.studies.methods import DEFAULT, REFERENCE
from asu_lora.version import library_versions

STEM = "comparison"
GIVEN_UP = " Those below the median of the method's earlier trials after a quarter of the epochs were given up."


def as_json(comparison: Comparison, command: str | None = None) -> dict[str, Any]:
    """Everything: what was compared, each run, which is kept.

    Args:
        command: how to do it again; it must hold no text of the request, no file's name, no value of a column.
    """
    kept = comparison.best
    best = {id(run) for row in kept for run in row.results}
    return {
        "command": command,
        "settings": comparison.shared,
        "counts": comparison.counts,
        "notes": list(comparison.notes),
        "versions": library_versions(),
        "machine": {"system": platform.platform(), "processor": platform.machine()},
        "seconds": round(comparison.seconds, 1),
        "kept": [result.title for result in kept],
        "pareto front": [row.title for row in pareto_front(kept)],
        "still speaking": [row.title for row in that_speak(kept)],
        "seeds": [
            {"title": row.title, "runs": len(row.results)}
            | {name: {"mean": row.score(name), "half interval": row.spread(name)} for name in SCORES}
            for row in kept
            if len(row.results) > 1
        ],
        "trials": [asdict(trial) for trial in comparison.trials],
        "runs": [{**asdict(result), "kept": id(result) in best} for result in comparison.results],
    }


def as_markdown(comparison: Comparison, command: str | None = None) -> str:
    """Table, all learning rates where several were tried, failures, settings."""
    kept, everything = comparison.best, seed_rows(comparison.results)
    text = [
        "# Comparison of unlearning methods\n",
        f"`{command}`\n" if command else "",
        paper_table(kept).markdown(),
        *against_part(kept),
        "Scores, ROUGE-L recall, probability, gibberish and repetition (of answers to kept and to forgotten "
        "questions) in percent; best **bold**, second <u>underlined</u>, the base apart. "
        f"{FRONT}: no other has more of both MU and FE. "
        "±: half the 95 % interval of the mean over seeds; a row of one has none. Seconds and memory are those of one "
        "run.\n",
        *own_settings_part(kept),
        *speaking_part(kept),
    ]
    if len(kept) < len(everything):
        text += [
            "## All settings\n",
            "Of each method the one with the highest Avg stands above; where a method has several here, it was chosen "
            "on the questions that are scored.\n",
            paper_table(everything).markdown(),
        ]
    text += trials_part(comparison)
    if failed := [result for result in everything if not result.done]:
        text += ["## Failed\n", *(f"- {result.title}: {result.failure}" for result in failed), ""]
    if taus := {result.title: result.training["tau"] for result in kept if result.training.get("tau")}:
        text.append("tau: " + ", ".join(f"{title}: {tau:g}" for title, tau in taus.items()) + ".\n")
    text += [
        "## Made with\n",
        f"{comparison.seconds / 60:.1f} minutes of training and evaluation in all.\n",
        *(f"- {key}: {value}" for key, value in {**comparison.counts, **comparison.shared}.items()),
        *(f"- {name}: {version}" for name, version in library_versions().items()),
        *(f"- {note}" for note in (*comparison.notes, *scoring_notes(comparison))),
    ]
    return "\n".join(text) + "\n"


def scoring_notes(comparison: Comparison) -> list[str]:
    """What was said while scoring: of every row (answers that were cut off, say), and of the reference alone."""
    told = [(result.method, result.scores.get("notes", ())) for result in comparison.results if result.done]
    common = [note for note in (told[0][1] if told else ()) if all(note in notes for _, notes in told)]
    alone = [note for method, notes in told if method == REFERENCE for note in notes]
    return [
        *(note for note in common if note not in comparison.notes),
        *(f"{REFERENCE}: {note}" for note in alone if note not in common),
    ]


def against_part(kept: Sequence[Row]) -> list[str]:
    """What the columns beside the scores are, where there are any."""
    known = {name for row in kept for name in row.known()}
    told = {
        LEAK: "Worst leak: the share of its facts that a forget row tells in the worst of several ways of asking it, "
        f"in percent; the mean over {MOST_ROWS} forget rows at most, spread evenly. A model that never saw the rows "
        "guesses some too.",
        QUALITY: "Forget quality: p of a KS test between the truth ratios of the forget questions and those of a model "
        "that never saw them; above 0.05 the two can't be told apart.",
    }
    return [f"{text}\n" for name, text in told.items() if name in known]


def own_settings_part(kept: Sequence[Row]) -> list[str]:
    """What the row of the default is, where there is one."""
    steps = {row.training.get("steps") for row in kept if row.method == DEFAULT and row.done}
    if not steps:
        return []
    told = ", ".join(f"{name} {value:g}" for name, value in ADDS_UP.items())
    return [
        f"{DEFAULT}: what `asu-lora forget` does where nothing is typed, in {steps.pop()} steps of its own ({told}).\n"
    ]


def speaking_part(kept: Sequence[SeedRow]) -> list[str]:
    """The second ranking, and who takes no part in it."""
    trained = [row for row in kept if row.lr is not None and row.done]
    if not trained:
        return []
    table = speaking_table(kept)
    silent = len(trained) - len(table.rows)
    return [
        "## Those that still speak\n",
        f"By Avg, methods of whose answers to kept questions at least {100 * SENTENCES:.0f} % are sentences; "
        f"{silent} of {len(trained)} are left out.\n",
        table.markdown() if table.rows else "None.\n",
    ]


def trials_part(comparison: Comparison) -> list[str]:
    """Every trial of the search, if there was one."""
    if not comparison.trials:
        return []
    rows = [
        [
            trial.method,
            str(trial.number),
            ", ".join(
                f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
                for name, value in trial.settings.items()
            ),
            *("-" if value is None else percent(value) for value in (trial.early, trial.score)),
            trial.state if trial.failure is None else "failed",
            f"{trial.seconds:.0f}",
        ]
        for trial in comparison.trials
    ]
    columns = ("method", "trial", "settings", "Avg of a quarter", "Avg", "state", "seconds")
    return [
        "## Trials of the search\n",
        "Equally many a method, on rows that are not scored above; the first has the paper's settings."
        + (GIVEN_UP if any(trial.early is not None for trial in comparison.trials) else "")
        + "\n",
        markdown_table(columns, rows),
    ]


def write_report(comparison: Comparison, command: str | None = None) -> list[Path]:
    """Write all of them into the comparison's folder.

    Args:
        command: see :func:`as_json`.

    Raises:
        StoreError: the disk refuses.
    """
    kept = comparison.best
    with disk_errors(comparison.out, "folder"):
        written = write_files(
            comparison.out,
            {
                f"{STEM}.md": as_markdown(comparison, command),
                f"{STEM}.csv": csv_text(comparison.results, kept),
                f"{STEM}.json": json.dumps(as_json(comparison, command), indent=1, ensure_ascii=False) + "\n",
            },
        )
        points: list[Row] = [result for result in kept if result.done and None not in map(result.score, SCORES)]
        if points:
            written += save_figure(compare_figure(points), comparison.out / STEM)
    return written


def best_line(comparison: Comparison) -> str | None:
    """The best method in a sentence."""
    scored = [
        (average, result)
        for result in comparison.best
        if result.lr is not None and (average := result.score("Avg")) is not None
    ]
    if not scored:
        return None
    average, best = max(scored, key=lambda entry: entry[0])
    return (
        f"Highest {best.label('Avg')}: {best.title.replace(', ', ' at ')} with {percent(average)} "
        f"(MU {percent(best.score('MU'))}, FE {percent(best.score('FE'))})."
    )
