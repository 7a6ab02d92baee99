"""asu-lora evaluate: every score of a base with adapters."""

from pathlib import Path

import click

from asu_lora.cli.options import (
    adapter_option,
    base_option,
    json_option,
    machine_options,
    store_option,
    where_option,
)


@click.command(short_help="Score a base with adapters: model utility, forget efficacy.")
@base_option
@adapter_option
@store_option
@click.option("--forget", metavar="FILE", help="Questions that should be forgotten.")
@click.option("--retain", metavar="FILE", help="Questions that should be kept.")
@where_option
@click.option("--suite", type=click.Choice(["tofu"]), help="A benchmark's sets instead of your own files.")
@click.option("--data", metavar="DIR", help="The suite's folder, or its hub id (locuslab/TOFU).")
@click.option("--split", default="forget01", show_default=True, help="The suite's forget split.")
@click.option("--task", default="1", show_default=True, help="task_id within the split; 'all' for every row.")
@click.option("--questions", type=click.IntRange(1), default=300, show_default=True, help="Most questions of a set.")
@click.option("--encoder", metavar="MODEL", help="Sentence encoder behind cosine similarity: hub id or folder.  "
              "[default: paraphrase-MiniLM-L6-v2]")
@click.option("--nli", metavar="MODEL", help="NLI model behind entailment: hub id or folder.  "
              "[default: deberta-v3-base-tasksource-nli]")
@click.option("--records", type=click.Path(dir_okay=False, path_type=Path), help="Write every question's answer and "
              "scores here, as JSON lines. They hold the questions' text.")
@machine_options
@json_option
def evaluate(base, adapters, store, forget, retain, where, suite, data, split, task, questions, encoder, nli, records,
             precision, device, as_json):
    """Score base + adapters on what should be forgotten and on what should be kept.

    \b
      asu-lora evaluate --adapter request --forget request.jsonl --retain keep.jsonl
      asu-lora evaluate --base my-model --adapter a --suite tofu --data TOFU --split forget01 --task 1

    A score that needs a model or a column which isn't there is named as missing; summaries say how much of
    themselves they hold: 'MU (5 of 6 metrics)'.
    """
    from asu_lora.cli.console import print_json, print_table, stderr
    from asu_lora.cli.progress import Bars
    from asu_lora.cli.quiet import quiet_libraries

    if suite and not data:
        raise click.UsageError("--suite needs --data: the folder with its files, or its hub id.")
    with stderr().status("Loading the base ..."):
        quiet_libraries()
        from asu_lora.evaluation.question_sets import own_sets, tofu_sets
        from asu_lora.evaluation.scoring import evaluate as score
        from asu_lora.evaluation.scoring_models import scoring_models
        from asu_lora.stack import load

        sets = (tofu_sets(data, split, None if task == "all" else task, questions) if suite
                else own_sets(forget, retain, questions, dict(where)))
        stack = load(base, adapters, store, precision, device)
        sentence_encoder, nli_model, notes = scoring_models(encoder, nli)
    result = score(stack, sets, sentence_encoder, nli_model, [*stack.notes, *notes], Bars())
    if records:
        result.write_records(records)
    summary = result.summary()
    if as_json:
        return print_json(summary)
    metrics = [m for m in next(iter(result.sets.values()))]
    print_table(None, ("metric", *result.sets), [
        (metric.replace("_", " "), *("missing" if values[metric] is None else f"{values[metric]:.3f}"
                                     for values in result.sets.values())) for metric in metrics],
        right=tuple(range(1, len(result.sets) + 1)))
    print_table(None, ("score", "value"), [
        (entry["label"], "missing" if entry["value"] is None else f"{100 * entry['value']:.2f}")
        for entry in summary["scores"].values()], right=(1,))
    for note in result.notes:
        click.echo(note, err=True)
    return None
