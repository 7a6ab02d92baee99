"""asu-lora forget: one forget request in, one LoRA adapter out."""

from collections.abc import Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from asu_lora.cli.config_options import is_given, named_settings, read_config, setting_options
from asu_lora.cli.forget_report import as_dict, report
from asu_lora.cli.help_pages import GroupedCommand
from asu_lora.cli.options import (
    adapter_names,
    base_option,
    is_typed,
    json_option,
    retain_option,
    retain_pool_options,
    store_option,
    where_option,
)
from asu_lora.data.paraphrases import MOST

if TYPE_CHECKING:
    from asu_lora.config import ForgetConfig
    from asu_lora.data.request import ForgetRequest
    from asu_lora.data.retain_pool import RetainPool
    from asu_lora.forgetting.result import ForgetResult


@click.command(cls=GroupedCommand, short_help="Train one adapter that makes a base forget a request.")
@click.argument("file")
@base_option
@retain_option(" 'auto' chooses the rows nearest to the request from --retain-pool.")
@retain_pool_options
@click.option("--name", "-n", help="The adapter's name in the store.  [default: FILE's name]")
@store_option
@where_option
@click.option(
    "--on-top-of",
    "-t",
    multiple=True,
    metavar="NAME[:WEIGHT]",
    shell_complete=adapter_names,
    help="An adapter of the store, or a PEFT "
    "folder, that is active and frozen while this one trains; repeat it for several.",
)
@click.option(
    "--heldout",
    metavar="FILE",
    help="Questions to measure before and after, trained on by neither side: paraphrases, say.",
)
@click.option(
    "--paraphrases",
    metavar="FILE",
    help="Your own wordings of the forget questions, trained on in turn: 'question' and 'paraphrased_question'. "
    f"Without --phrasings, all that a question has are taken, at most {MOST}.",
)
@click.option("--idk-file", metavar="FILE", help='Your own "I don\'t know" answers, one a line.')
@click.option("--resume", is_flag=True, help="Go on where an interrupted run of this name stopped.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check request, base and settings, say what would be done and the memory it takes; train nothing.",
)
@click.option(
    "--fit",
    metavar="[BYTES]",
    is_flag=False,
    flag_value="free",
    help="Lower "
    "--micro-batch-tokens and turn gradient checkpointing on until the run fits into BYTES (12GB), or into "
    "what the device has free. Alone it stands after FILE.",
)
@click.option(
    "--profile",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Also write where the seconds went: profile.md, by part, and trace.json, three training steps for "
    "chrome://tracing or Perfetto.",
)
@json_option
@partial(setting_options, adds_up="on, unless --on-top-of or another --objective is given")
def forget(
    *,
    file,
    base,
    retain,
    name,
    store,
    where,
    on_top_of,
    heldout,
    idk_file,
    resume,
    dry_run,
    fit,
    profile,
    as_json,
    config,
    **typed,
):
    """Make a base forget the questions and answers, or the passages, in FILE.

    FILE is JSONL, JSON, CSV or Parquet, or a dataset on the hub, with columns 'question' and 'answer', or
    'messages', or 'text'. The result is one LoRA adapter in the store: a plain PEFT folder.

    \b
      asu-lora forget request.jsonl --retain keep.jsonl
      asu-lora forget request.jsonl --retain auto --retain-pool everything.jsonl

    What must be kept matters as much as what must go: a --retain file with questions near to the request
    protects best; 'auto' finds them in a pool. Without one, general knowledge is kept.

    It can be summed with others that were trained alone (--adds-up), or is trained on top of some, for these only:

    \b
      asu-lora forget second.jsonl --on-top-of request --on-top-of other:0.5
    """
    kept, wordings = retain_set(retain, typed), Wordings(typed.pop("paraphrases"), is_given(config, typed, "phrasings"))
    given, config = named_settings(config, typed), read_config(config, typed, alone=not on_top_of)
    from asu_lora.cli.quiet import quiet_libraries
    from asu_lora.data.request import ForgetRequest, read_examples

    request, config = wordings.added(ForgetRequest.from_files(file, kept, dict(where)), config)
    held = read_examples(heldout) if heldout else []
    name = name or request.name
    quiet_libraries()
    if fit:
        config = _fitted(request, base, config, fit, held, idk_file)
    if dry_run:
        return _dry_run(request, base, config, name, store, on_top_of, held, idk_file, as_json, given)

    more = dict(name=name, store=store, heldout=held, idk_file=idk_file, on_top_of=on_top_of, resume=resume)
    result = _run(request, base, config, given, profile=profile, **more)
    if not result.main_process:
        return  # under accelerate launch, one process reports
    if as_json:
        from asu_lora.cli.console import print_json

        print_json(as_dict(result) | {"parameters": result.record.counts})
    else:
        report(result, base, store, on_top_of)


def retain_set(retain: str | None, typed: dict[str, Any]) -> "str | RetainPool | None":
    """What ``--retain`` stands for: a file, a pool to choose from, or nothing. ``typed`` loses the pool's options."""
    pool, rows, by = (typed.pop(f"retain_{name}") for name in ("pool", "rows", "by"))
    if (retain == "auto") != (pool is not None):
        raise click.UsageError(
            "--retain auto needs --retain-pool: a file or a hub dataset of rows to choose from."
            if pool is None
            else "--retain-pool is what --retain auto chooses from: say --retain auto, or leave it out."
        )
    if pool is None:
        refuse_typed("retain_rows", "retain_by")
        return retain
    from asu_lora.data.retain_pool import RetainPool

    return RetainPool.from_source(pool, rows, by)


def refuse_typed(*names: str) -> None:
    """Refuse what was typed of --retain auto without it."""
    for name in names:
        if is_typed(name):
            flag = f"--{name.replace('_', '-')}"
            raise click.UsageError(
                f"{flag} says how --retain auto chooses: say --retain auto with --retain-pool, or leave {flag} out."
            )


class Wordings(NamedTuple):
    """What ``--paraphrases`` names, and whether ``--phrasings`` says how many of them are trained on."""

    file: str | None
    counted: bool

    def added(self, request: "ForgetRequest", config: "ForgetConfig") -> "tuple[ForgetRequest, ForgetConfig]":
        """The request in these words, too, and the settings that train on them."""
        if self.file is None:
            return request, config
        if self.counted and not config.phrasings:
            raise click.UsageError("--phrasings 0 trains on no wording of --paraphrases: leave one of the two out.")
        request = request.with_paraphrases(self.file)
        if not self.counted:  # --robust may want more than the file has
            config = replace(config, phrasings=max(config.phrasings, request.phrasings()))
        return request, config


def note_unused(
    request: "ForgetRequest", config: "ForgetConfig", given: Collection[str], idk_file: str | None, alone: bool
) -> None:
    """Say which of the settings that are given change nothing, and whether no loss looks at the user's refusals."""
    from asu_lora.forgetting.unused_settings import unused_settings
    from asu_lora.losses import looks_at

    for note in unused_settings(config, given, any(not row.is_passage for row in request.forget), alone):
        click.echo(f"Note: {note}", err=True)
    if idk_file and not looks_at("idk", config.objective, config.retain_loss):
        click.echo(f"Note: {config.objective} with {config.retain_loss} looks at no answers of --idk-file.", err=True)


def _run(request, base, config, given, **more) -> "ForgetResult":
    """The run itself, with a way on where it was interrupted."""
    from asu_lora.cli.progress import Bars
    from asu_lora.errors import NotEnoughMemory
    from asu_lora.forgetting.forget import forget as run

    note_unused(request, config, given, more["idk_file"], not more["on_top_of"])
    try:
        return run(request, base, config, progress=Bars(), **more)
    except NotEnoughMemory as error:
        way_on = _way_on(more, "with that and --resume")
        raise NotEnoughMemory(f"{error} --fit does so by itself{f'; {way_on}' if way_on else ''}.") from error
    except KeyboardInterrupt as interrupt:
        way_on = _way_on(more, "with --resume") or "no epoch was whole, so the same command begins anew"
        raise KeyboardInterrupt(f"Interrupted: nothing was added to the store; {way_on}.") from interrupt


def _way_on(more: dict[str, Any], how: str) -> str | None:
    """How an interrupted run goes on; None where there is nothing to go on from."""
    from asu_lora.forgetting.run_folder import can_be_resumed

    if not can_be_resumed(more["store"], more["name"]):
        return None
    return f"the same command {how} goes on after the last whole epoch"


def _fitted(request, base, config, budget, held, idk_file):
    from asu_lora.forgetting.dry_run import fit_run
    from asu_lora.memory_plan.fit import changes, size

    fitted, plan, available = fit_run(request, base, config, budget, held, idk_file)
    changed = changes(config, fitted)
    click.echo(
        f"--fit: {' '.join(changed) if changed else 'the settings stay as they are'}; expected peak "
        f"{size(plan.peak)} of {size(available)}.",
        err=True,
    )
    return fitted


def _dry_run(request, base, config, name, store, on_top_of, held, idk_file, as_json, given) -> None:
    from asu_lora.forgetting.dry_run import memory_summary, plan_run

    note_unused(request, config, given, idk_file, not on_top_of)
    plan, memory = plan_run(
        request, base, config, name=name, store=store, on_top_of=on_top_of, heldout=held, idk_file=idk_file
    )
    if notes := plan.get("notes"):
        click.echo(notes, err=True)
    if as_json:
        from asu_lora.cli.console import print_json

        return print_json(plan | {"memory": memory_summary(memory), "fields": plan.fields})
    from asu_lora.cli.console import print_table
    from asu_lora.memory_plan.fit import size

    print_table("What would be done", ("", ""), plan.items(), wrap=(1,))
    parts = dict.fromkeys(part for phase in memory.phases.values() for part, taken in phase.items() if taken)
    rows = [(part, *(size(phase[part]) if part in phase else "" for phase in memory.phases.values())) for part in parts]
    rows.append(("together", *map(size, memory.totals.values())))
    print_table(
        f"\nMemory: at most {size(memory.peak)}, when {memory.phase}",
        ("part", *memory.phases),
        rows,
        right=range(1, len(memory.phases) + 1),
    )
