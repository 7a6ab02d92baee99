"""``asu-lora adapters verify``: are they whole?."""

from pathlib import Path

import click

from asu_lora.cli.console import print_json
from asu_lora.cli.options import adapter_names, json_option, store_option


@click.command()
@click.argument("names", shell_complete=adapter_names, nargs=-1, metavar="[NAME]...")
@click.option("--base", help="Also check that they belong to these weights: a hub id or a path.")
@store_option
@json_option
@click.pass_context
def verify(ctx: click.Context, names: tuple[str, ...], base: str | None, store: Path, as_json: bool) -> None:
    """Check that adapters are whole: the ones named, or all of them.

    Reads every byte: files against their recorded checksums, shapes and ranks against the config,
    every number for NaN and infinity. Pickles are refused and never opened. Exits with 2 if any adapter
    is bad.
    """
    from asu_lora.adapters.store import AdapterStore

    kept = AdapterStore(store)
    known = None
    if base is not None:
        from asu_lora.bases.source import resolve_base

        known = resolve_base(base).fingerprints()
    reports = [kept.verify(name, known) for name in names or kept.names()]
    if as_json:
        print_json([report.as_dict() for report in reports])
    elif not reports:
        click.echo(f"The store {kept.root} is empty: there is nothing to verify.")
    for report in () if as_json else reports:
        click.echo(f"{report.folder.name}: " + (f"ok, {len(report.checks)} checks" if report.ok else "BAD"))
        for check in report.checks:
            if check.problem or check.note:
                click.echo(f"  {check.name}: {check.problem or check.note}")
    if not all(report.ok for report in reports):
        ctx.exit(2)
