"""asu-lora evaluate: every score of a base with adapters."""

from functools import partial
from pathlib import Path

import click

from asu_lora.cli.help_pages import GroupedCommand
from asu_lora.cli.options import (
    adapter_option,
    base_option,
    json_option,
    machine_options,
    row_options,
    scoring_options,
    store_option,
    where_option,
)
from asu_lora.evaluation.suites import SUITES
from asu_lora.reporting.tables import percent

SETS_A_TABLE = 4  # more would not fit into 80 columns
NOT_PERCENT = ("forget quality", "AUC", "PrivLeak")  # endings: a p-value, an AUC, percent already


@click.command(cls=GroupedCommand, short_help="Score a base with adapters: model utility, forget efficacy.")
@base_option
@adapter_option
@store_option
@click.option("--forget", metavar="FILE", help="Questions that should be forgotten.")
@click.option("--retain", metavar="FILE", help="Questions that should be kept.")
@where_option
@partial(scoring_options, suites=tuple(SUITES))
@click.option(
    "--retain-log",
    metavar="FILE",
    help="The --records of a model that never saw the forget set, or the log of TOFU's or open-unlearning's "
    "evaluation: gives forget quality and, on MUSE or with --holdout, PrivLeak.",
)
@click.option(
    "--holdout",
    metavar="FILE",
    help="Examples that the model never saw, like those to forget: gives membership attacks, AUC and TPR at 1% FPR.",
)
@click.option(
    "--gradient-norm", is_flag=True, help="Tell members by their gradients too: a backward pass for every row."
)
@click.option(
    "--lm-eval",
    "lm_eval",
    metavar="TASKS",
    help="Tasks of lm-evaluation-harness, with commas between (mmlu,arc_easy); needs asu-lora[lm-eval].",
)
@click.option(
    "--records",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write every question's answer and scores here, as JSON lines. They hold the questions' text.",
)
@row_options("the adapters', else 1024")
@machine_options
@json_option
def evaluate(lm_eval, where, records, as_json, **asked):
    """Score base + adapters on what should be forgotten and on what should be kept.

    \b
      asu-lora evaluate --adapter request --forget request.jsonl --retain keep.jsonl
      asu-lora evaluate --base my-model --adapter a --suite tofu --data TOFU --split forget01 --task 1
      asu-lora evaluate --base my-model --adapter a --suite muse-news --retain-log retrained.jsonl
      asu-lora evaluate --base my-model --adapter a --suite wmdp --lm-eval mmlu

    A score that needs a model or a column which isn't there is named as missing; summaries say how much of
    themselves they hold: 'MU (5 of 6 metrics)'.
    """
    from asu_lora.cli.console import print_json, stderr
    from asu_lora.cli.progress import Bars
    from asu_lora.cli.quiet import quiet_libraries

    if records:
        from asu_lora.files import check_writable, refuse_to_replace

        refuse_to_replace(records, (asked[name] for name in ("forget", "retain", "holdout", "retain_log")))
        check_writable(records.absolute().parent)  # before minutes of work
    tasks = tuple(name.strip() for name in (lm_eval or "").split(",") if name.strip())
    with stderr().status("Loading the base ..."):
        quiet_libraries()
        from asu_lora.evaluation.evaluation_request import EvaluationRequest

        loaded = EvaluationRequest(**asked, where=dict(where), tasks=tasks).load()
    with Bars() as progress:
        result = loaded.score(progress)
    if tasks:
        with stderr().status("lm-evaluation-harness ..."):
            result.lm_eval = loaded.run_tasks()
    if as_json:
        print_json(result.summary())
    else:
        _print(result)
    if records:  # after the scores: a disk that refuses must not cost them
        result.write_records(records)


def _print(result):
    from asu_lora.cli.console import print_table

    summary = result.summary()
    metrics = list(dict.fromkeys(metric for values in result.sets.values() for metric in values))
    names = list(result.sets)
    for start in range(0, len(names), SETS_A_TABLE):
        shown = names[start : start + SETS_A_TABLE]
        cells = [("questions", *(str(summary["questions"][name]) for name in shown))]
        cells += [(metric.replace("_", " "), *(_value(summary, name, metric) for name in shown)) for metric in metrics]
        columns = ("metric", *(name.replace("_", "\n") for name in shown))
        print_table(None, columns, cells, right=tuple(range(1, len(columns))))
    if names:
        print_table(
            None,
            ("score", "value", "95 %"),
            [
                (entry["label"], _score(name, entry["value"]), _between(name, entry["interval"]))
                for name, entry in summary["scores"].items()
            ],
            right=(1, 2),
        )
        click.echo("± and 95 %: bootstrap intervals over questions (± is half of one).", err=True)
    if result.lm_eval:
        print_table(
            None,
            ("task", "metric", "value"),
            [
                (task, metric, f"{value:.4g}")
                for task, values in result.lm_eval.items()
                for metric, value in values.items()
            ],
            right=(2,),
        )
    for note in result.notes:
        click.echo(note, err=True)


def _value(summary, name, metric):
    """One cell: empty where a set has no such metric."""
    values = summary["sets"][name]
    if metric not in values:
        return ""
    if values[metric] is None:
        return "missing"
    bounds = summary["intervals"][name].get(metric)
    half = f"{(bounds[1] - bounds[0]) / 2:.2f}".removeprefix("0") if bounds else ""
    return f"{values[metric]:.3f}" + (f"±{half}" if half else "")


def _score(name, value):
    return f"{value:.3g}" if value is not None and name.endswith(NOT_PERCENT) else percent(value)


def _between(name, bounds):
    """An interval; empty where there is none."""
    return f"{_score(name, bounds[0])} to {_score(name, bounds[1])}" if bounds else ""
