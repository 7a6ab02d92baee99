"""asu-lora compare: every unlearning method on one base and one request, each trained and scored alike."""

from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from asu_lora.cli.config_options import given_settings, read_config, setting_options
from asu_lora.cli.help_pages import GroupedCommand
from asu_lora.cli.options import (
    base_option,
    check_suite,
    json_option,
    out_option,
    retain_option,
    scoring_options,
    where_option,
)
from asu_lora.config import ForgetConfig
from asu_lora.studies.compare import VARIED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from asu_lora.data.request import ForgetRequest
    from asu_lora.evaluation.question_sets import QuestionSet
    from asu_lora.progress import Progress
    from asu_lora.studies.compare.compare import Comparison
    from asu_lora.studies.compare.reproduce import Reproduction
    from asu_lora.studies.compare.tuning import Tuning

# Options of text that are checked against known names before anything runs; a setting's own words are too.
SHOWN = {"methods", "rates", "seeds", *(spec.name for spec in fields(ForgetConfig))}


@click.command(cls=GroupedCommand, short_help="Train and score every unlearning method on one request.")
@click.argument("file")
@base_option
@retain_option(" Where its rows carry perturbed answers, they are the retain set that is scored.")
@where_option
@click.option(
    "--methods",
    "-m",
    metavar="NAME,...",
    help="Methods, FORGET_RETAIN: a forget and a retain loss of --objective and --retain-loss (NPO_GD); or 'paper' for "
    "the 13 of the ASU paper's table, 'field' for nine further ones, ASU_DEFAULT for what 'forget' does by "
    "default, 'all' for all of these.  [default: paper]",
)
@click.option(
    "--lr",
    "rates",
    multiple=True,
    metavar="LR,...",
    help="Learning rates tried for each method, the best "
    "Avg is kept; METHOD=LR,... for one method alone. Repeatable.  [default: 0.001]",
)
@click.option(
    "--search",
    "trials",
    type=click.IntRange(1),
    metavar="N",
    help="First tune every method with N trials: learning rate, weight of the retain loss, the method's own number. "
    "The same command, started several times, shares the trials out; needs 'pip install asu-lora[search]'.",
)
@click.option("--search-forget", metavar="FILE", help="Forget rows of the trials; none of FILE, which is scored.")
@click.option(
    "--search-retain",
    metavar="FILE",
    help="Retain rows of the trials.  [default: those of --retain that are not scored]",
)
@click.option(
    "--seeds", metavar="N,...", help="Make every run with each of these seeds; the table has mean and interval."
)
@click.option(
    "--reproduce",
    metavar="ROW",
    help="Make one row of OUT again, by its file's name (NPO_GD-lr-0.001), and compare every score with its record.",
)
@out_option("Folder for adapters, scores, table and figure. A comparison that lies there goes on.", "comparison")
@scoring_options
@click.option(
    "--records",
    is_flag=True,
    help="Also write every question's answer and scores, a JSON lines file a run. They hold the questions' text.",
)
@click.option(
    "--leaks",
    is_flag=True,
    help="Also ask the forget rows in several ways (audit --quick's) and say what the worst of them brings out.",
)
@click.option(
    "--retain-log",
    metavar="FILE",
    help="The --records of a model that never saw the request, as for evaluate: adds forget quality to every row.",
)
@click.option(
    "--reference-base",
    metavar="DIR",
    help="A model that never saw the request: a row of its own, where forgetting should end. It is only scored.",
)
@click.option("--idk-file", metavar="FILE", help='Your own "I don\'t know" answers, one a line.')
@json_option
@partial(setting_options, without=(*VARIED, "orthogonal"))
def compare(*, file, base, retain, where, methods, rates, out, records, as_json, config, **others):
    """Train and score unlearning methods on FILE, with the same base, data, steps and rank.

    \b
      asu-lora compare request.jsonl --retain keep.jsonl --out table
      asu-lora compare request.jsonl --retain keep.jsonl --methods ASU_KL,NPO_GD --lr 1e-3,3e-4 --lr NPO_GD=1e-4
      asu-lora compare request.jsonl --retain keep.jsonl --methods all --search 8 --search-forget other.jsonl
      asu-lora compare forget01.json --where task_id=1 --retain keep.jsonl --suite tofu --data TOFU --task 1

    A stopped comparison goes on with the same command, run by run; further methods and learning rates join the
    table. Started several times, on as many GPUs or cores, it shares the runs out. A method that fails is a row that
    says so; exit code 1 if all do. The adapters lie in OUT/adapters, a store.
    """
    scoring = {name: others.pop(name) for name in ("suite", "data", "split", "task", "questions", "encoder", "nli")}
    beside = {name: others.pop(name) for name in ("idk_file", "leaks", "retain_log", "reference_base")}
    wanted = {name: others.pop(name) for name in ("trials", "search_forget", "search_retain", "seeds", "reproduce")}
    given = given_settings(config, others)
    config = read_config(config, others)
    check_search(**wanted, rates=rates)
    check_suite(scoring["suite"], scoring["data"])
    from asu_lora.cli.progress import Bars
    from asu_lora.cli.quiet import quiet_libraries

    progress = Bars()
    progress.stage("Reading the request")
    quiet_libraries()
    from asu_lora.data.request import ForgetRequest
    from asu_lora.studies.compare.compare import compare as run
    from asu_lora.studies.compare.grid import learning_rates, plan_runs
    from asu_lora.studies.compare.report import write_report
    from asu_lora.studies.methods import PAPER
    from asu_lora.studies.methods import methods as methods_of

    try:
        chosen = methods_of(PAPER if methods is None else filter(str.strip, methods.split(",")))
        runs = plan_runs(chosen, learning_rates(rates, chosen, config.lr))
        request = ForgetRequest.from_files(file, retain, dict(where))
        sets, scored_with = scored(request, progress, **scoring)
        scored_with |= held_against(**beside) | {"given": given}
        if wanted["reproduce"]:
            given = request, base, sets, out, config
            return told(made_again(wanted["reproduce"], given, scored_with, progress), as_json)
        scored_with |= {"seeds": seed_numbers(wanted["seeds"])}
        scored_with |= {"tuning": tuned(wanted, request, sets, scoring["questions"])}
        result = run(request, base, sets, runs, out, config, records=records, progress=progress, **scored_with)
        command = typed_command(click.get_current_context())
        progress.stage("Drawing the figure")
        files = write_report(result, command)
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(f"Interrupted: {out} holds what is finished; the same command goes on.") from interrupt
    finally:
        progress.close()
    shown(result, files, command, as_json)


def shown(result: "Comparison", files: "Sequence[Path]", command: str, as_json: bool) -> None:
    """What was found; exit code 1 where every method failed."""
    if as_json:
        from asu_lora.cli.console import print_json
        from asu_lora.studies.compare.report import as_json as everything

        print_json(everything(result, command))
    else:
        from asu_lora.cli.compare_tables import show

        show(result, files)
    trained = [each.done for each in result.results if each.lr is not None]
    if trained and not any(trained):
        click.get_current_context().exit(1)


def scored(
    request: "ForgetRequest", progress: "Progress", *, suite, data, split, task, questions, encoder, nli
) -> "tuple[list[QuestionSet], dict[str, Any]]":
    """The question sets, and what they are scored with: models and notes."""
    from asu_lora.evaluation.scoring_models import scoring_models
    from asu_lora.evaluation.suites.tofu import tofu_sets
    from asu_lora.studies.compare.questions import comparison_sets

    sets, notes = comparison_sets(request, tofu_sets(data, split, task, questions) if suite else (), questions)
    progress.stage("Looking for the scoring models")
    sentence_encoder, nli_model, missing = scoring_models(encoder, nli)
    return sets, {"encoder": sentence_encoder, "nli": nli_model, "notes": notes + missing}


def held_against(*, retain_log: str | None, **others: "Any") -> "dict[str, Any]":
    """What the runs are made with and held against beside the scores."""
    from asu_lora.evaluation.retain_log import read_log

    return {**others, "reference": read_log(retain_log) if retain_log else None}


def check_search(*, trials, search_forget, search_retain, seeds, reproduce, rates=()) -> None:
    """Refuse what can't go together, and seeds that are none, before anything is read."""
    if trials and rates:
        raise click.UsageError("--search finds each method's learning rate: leave out --lr.")
    if trials and not search_forget:
        raise click.UsageError(
            "--search needs --search-forget: rows of another kind than those that are scored, such as another task's."
        )
    if (search_forget or search_retain) and not trials:
        raise click.UsageError("--search-forget and --search-retain are for --search N: say how many trials.")
    if reproduce and (trials or seeds):
        raise click.UsageError("--reproduce makes one row again: leave out --search and --seeds.")
    seed_numbers(seeds)


def seed_numbers(text: str | None) -> list[int]:
    """The seeds in ``"0,1,2"``."""
    try:
        return [int(each) for each in text.split(",")] if text else []
    except ValueError as error:
        raise click.UsageError(f"--seeds is '{text}'; write whole numbers with commas between, as 0,1,2.") from error


def tuned(
    wanted: "dict[str, Any]", request: "ForgetRequest", sets: "list[QuestionSet]", questions: int
) -> "Tuning | None":
    """The trials that --search asks for, on rows of their own."""
    if not wanted["trials"]:
        return None
    from asu_lora.data.request import ForgetRequest
    from asu_lora.studies.compare.tuning import tuning

    rows = ForgetRequest.from_files(wanted["search_forget"], wanted["search_retain"])
    return tuning(wanted["trials"], request, sets, rows, questions, own_retain=bool(wanted["search_retain"]))


def made_again(row: str, given: tuple, scored_with: "dict[str, Any]", progress: "Progress") -> "Reproduction":
    """Make one row again.

    Args:
        given: the comparison's request, base, sets, folder and settings.
    """
    from asu_lora.models.loading import load_base
    from asu_lora.studies.compare.compare import Comparison
    from asu_lora.studies.compare.reproduce import reproduce

    request, base, sets, out, config = given
    progress.stage("Loading the base")
    loaded = load_base(base, config.precision, config.device, trust_remote_code=config.trust_remote_code)
    found = reproduce(Comparison(request, loaded, sets, out, config, **scored_with), row, progress)
    progress.close()
    return found


def told(found: "Reproduction", as_json: bool) -> None:
    """Whether everything is the same; exit code 1 where it isn't."""
    if as_json:
        from asu_lora.cli.console import print_json

        differing = {name: {"recorded": before, "again": now} for name, (before, now) in found.differences.items()}
        print_json({"row": found.recorded.title, "same": found.same, "differences": differing})
    elif found.same:
        click.echo(f"{found.recorded.title}: the same to the last digit ({found.again.outcome()}).")
    else:
        click.echo(f"{found.recorded.title}: {len(found.differences)} figures differ.")
        for name, (before, now) in list(found.differences.items())[:10]:
            click.echo(f"  {name}: {before} in the record, {now} now")
    if not found.same:
        click.get_current_context().exit(1)


def typed_command(ctx: click.Context) -> str:
    """The command as it may be written into a report: names of files and values of columns stand as their kind.

    What a person typed as a number, a choice or a setting stays: it can hold nothing of the request.
    """
    words = [ctx.command_path]
    for param in ctx.command.params:
        if ctx.get_parameter_source(param.name or "") is not ParameterSource.COMMANDLINE:
            continue
        value = ctx.params.get(param.name or "")
        if not isinstance(param, click.Option):
            words.append(param.human_readable_name)
        elif param.is_flag:
            words.append(param.opts[-1] if value else param.secondary_opts[-1])
        else:
            values = value if param.multiple and isinstance(value, list | tuple) else [value]
            plain = param.name in SHOWN or not isinstance(param.type, click.types.StringParamType | click.Path)
            kind = param.metavar or (param.name or "").upper()
            words += [word for each in values for word in (max(param.opts, key=len), str(each) if plain else kind)]
    return " ".join(words)
