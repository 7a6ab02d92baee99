"""``asu-lora requests run``: what is due is trained."""

import sys
from functools import partial

import click

from asu_lora.cli.config_options import read_config, setting_options
from asu_lora.cli.console import print_json
from asu_lora.cli.help_pages import GroupedCommand
from asu_lora.cli.options import base_option, json_option
from asu_lora.cli.requests.audit_options import OVER, audit_policy_options, policy_from
from asu_lora.cli.requests.common import acting, actor_option, key_option, ledger_options


@click.command(cls=GroupedCommand, short_help="Train and audit what is queued, by due date.")
@base_option
@click.option(
    "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Where to train."
)
@click.option(
    "--address", help="With --engine ray: a cluster to join, 'auto' for this machine's.  [default: start one here]"
)
@click.option("--workers", type=click.IntRange(1), help="With --engine ray: how many processes.  [default: what fits]")
@click.option(
    "--at-once",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="K",
    help="With --engine local: train so many requests together. Their adapters are those of one after the other.",
)
@click.option(
    "--publish",
    envvar="ASU_LORA_PUBLISH",
    show_envvar=True,
    metavar="ADDRESS",
    help="Put each finished adapter there too: s3://bucket/adapters, or any address fsspec knows.",
)
@click.option(
    "--launch",
    metavar="COMMAND",
    help="Train each request in several processes: 'accelerate launch --num_processes 2'. Needs --no-audit.",
)
@click.option("--most", type=click.IntRange(1), help="Stop after so many requests.")
@click.option("--audit/--no-audit", default=True, show_default=True, help="Audit each adapter once it is trained.")
@audit_policy_options
@click.option(
    "--re-audit/--no-re-audit",
    default=True,
    show_default=True,
    help="Audit each again, all adapters active, after others came or went.",
)
@click.option(
    "--forget-text", is_flag=True, help="Destroy each text once its adapter has passed its audits of the run."
)
@click.option(
    "--consolidate",
    type=click.IntRange(0),
    default=0,
    metavar="K",
    help="Combine the adapters of every K requests into one, exactly.",
)
@ledger_options
@key_option
@actor_option
@json_option
@partial(setting_options, adds_up="on, unless another --objective is given")
def run(
    *,
    base,
    engine,
    address,
    workers,
    at_once,
    publish,
    launch,
    most,
    audit,
    re_audit,
    forget_text,
    consolidate,
    policy,
    store,
    database,
    key_file,
    actor,
    as_json,
    config,
    **typed,
):
    """Train what is queued, the earliest due date first, audit it, and do what follows.

    \b
      asu-lora requests run --base Qwen/Qwen2.5-7B-Instruct --config settings.yaml
      asu-lora requests run --engine ray --address auto --forget-text --consolidate 10

    Each adapter is trained alone, so that any of them can be taken back: with the settings of --adds-up, unless
    another --objective is given, or --no-adds-up.

    A run can be killed at any moment and started again, by anyone and on any machine that reaches the ledger and the
    store: it goes on where the last one stopped, and no request is trained twice. Several runs may work at once. A
    request that can't be trained fails by itself, with its sentence, and the others go on; exit code 1 then, and also
    where an audit can't be made or a text not be taken out of the database. One of which an audit brings back too much
    (--fail-over) fails too, and keeps its text; exit code 3 if that was all.
    """
    from asu_lora.cli.quiet import quiet_libraries

    settings = read_config(config, typed, alone=True)
    quiet_libraries()
    from asu_lora.cli.requests.run_report import Telling, as_dict, tell
    from asu_lora.requests.runner.audit_step import audit_adapter
    from asu_lora.requests.runner.run import Engine
    from asu_lora.requests.runner.run import run as work_through
    from asu_lora.requests.runner.settings import Places, RunSettings
    from asu_lora.requests.runner.workshop import Workshop

    wanted = RunSettings(base, settings, audit, re_audit, forget_text, consolidate, most, launch, policy_from(**policy))
    shop = Workshop.open(Places(store, database, key_file, acting(actor), publish), wanted, audit=audit_adapter)
    report = work_through(shop, Engine(engine, address, workers, at_once), Telling(len(shop.waiting()), shop.names))
    if as_json:
        print_json(as_dict(report))
    else:
        tell(report, shop)
    if report.refused:
        sys.exit(OVER)
    if report.failed or report.not_audited or report.not_scrubbed:
        sys.exit(1)
