"""``asu-lora adapters``: what is in the store, and changing it."""

from importlib import import_module
from pathlib import Path

import click

from asu_lora.cli.console import print_json, print_table
from asu_lora.cli.options import json_option, store_option


class Adapters(click.Group):
    """The commands below, and those that live in files of their own."""

    elsewhere = {
        "import": "asu_lora.cli.transfer:import_",
        "export": "asu_lora.cli.transfer:export",
        "push": "asu_lora.cli.transfer:push",
        "pull": "asu_lora.cli.transfer:pull",
        "combine": "asu_lora.cli.adapters.combine:combine",
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands, *self.elsewhere]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.elsewhere:
            return super().get_command(ctx, name)
        module, attribute = self.elsewhere[name].split(":")
        return getattr(import_module(module), attribute)


@click.group(cls=Adapters)
def adapters() -> None:
    """See, check, keep and pass on the adapters in the store.

    The store is a folder (adapters/, --store, or ASU_LORA_STORE) with one plain PEFT folder an adapter. Begin
    with what is there, and whether it is whole:

    \b
      asu-lora adapters list
      asu-lora adapters verify

    Any number of processes may use one store at once; a change happens whole or not at all.
    """


@adapters.command("list")
@store_option
@json_option
def list_(store: Path, as_json: bool) -> None:
    """List the adapters: what they forget, on which base, with what result.

    "Forget" is the probability of the answers that had to go, before and after. The state is "ready",
    "imported" (a PEFT LoRA made elsewhere, of which nothing else is known) or "broken" and why. No
    weights are read: 'asu-lora adapters verify' does that.
    """
    from asu_lora.adapters.store import AdapterStore
    from asu_lora.cli.adapters.tables import print_list

    found = AdapterStore(store).list()
    if as_json:
        print_json([adapter.as_dict() for adapter in found])
    elif not found:
        click.echo(f"The store {store} is empty: 'asu-lora forget' and 'asu-lora adapters import' fill it.")
    else:
        print_list(found)
        for adapter in found:
            if adapter.broken:
                click.echo(f"{adapter.name} is {adapter.state}.")


@adapters.command()
@click.argument("name")
@store_option
@json_option
def show(name: str, store: Path, as_json: bool) -> None:
    """Show everything that is known about the adapter NAME.

    How it was made, on which base, from how many rows (never which: an adapter holds no text of its request),
    its figures before and after, and which adapters it stands on or which stand on it.
    """
    from asu_lora.adapters.store import AdapterStore
    from asu_lora.cli.adapters.tables import facts, figures, tau_curve

    store = AdapterStore(store)
    adapter = store.get(name)
    above = [other.name for other in store.dependents(name)]
    if as_json:
        print_json({**adapter.as_dict(), "trained_on_top_of_it": above})
        return
    print_table(None, (name, adapter.state), facts(adapter, store.missing_beneath(name), above), wrap=(1,))
    if rows := figures(adapter):
        print_table("Figures", ("", "before", "after"), rows, right=(1, 2), wrap=(0,))
    columns, rows = tau_curve(adapter)
    if rows:
        every = range(len(columns))
        print_table("tau curve", columns, rows, right=every, wrap=every)


@adapters.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
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

    store = AdapterStore(store)
    fingerprint = None
    if base is not None:
        from asu_lora.bases.source import resolve_base

        fingerprint = resolve_base(base).fingerprint()
    reports = [store.verify(name, fingerprint) for name in names or store.names()]
    if as_json:
        print_json([report.as_dict() for report in reports])
    elif not reports:
        click.echo(f"The store {store.root} is empty: there is nothing to verify.")
    for report in () if as_json else reports:
        click.echo(f"{report.folder.name}: " + (f"ok, {len(report.checks)} checks" if report.ok else "BAD"))
        for check in report.checks:
            if check.problem or check.note:
                click.echo(f"  {check.name}: {check.problem or check.note}")
    if not all(report.ok for report in reports):
        ctx.exit(2)


@adapters.command()
@click.argument("old")
@click.argument("new")
@store_option
def rename(old: str, new: str, store: Path) -> None:
    """Call the adapter OLD by the name NEW.

    Its manifest and model card follow, and so do the manifests of adapters trained on top of it.
    """
    from asu_lora.adapters.store import AdapterStore

    AdapterStore(store).rename(old, new)
    click.echo(f"{old} is now {new}.")


@adapters.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@store_option
def remove(names: tuple[str, ...], yes: bool, store: Path) -> None:
    """Remove adapters for good: what they made the model forget, it knows again.

    All others stay exactly as they are. Those that were trained on top of a removed one were trained for
    a model that is no more: they are named, and should be trained again; the command for it is printed, with FILE
    for the request, whose text an adapter doesn't hold.
    """
    from asu_lora.adapters.store import AdapterStore
    from asu_lora.cli.adapters.tables import retrain_command

    store = AdapterStore(store)
    names = tuple(dict.fromkeys(names))
    dependents = {name: [other for other in store.dependents(name) if other.name not in names] for name in names}
    for name, others in dependents.items():
        if others:
            click.echo(f"Warning: trained on top of {name}: {', '.join(other.name for other in others)}. Train "
                       f"{'it' if len(others) == 1 else 'them'} again afterwards, without --on-top-of {name}.",
                       err=True)
    for other in {other.name: other for others in dependents.values() for other in others}.values():
        click.echo(f"  {retrain_command(other, names, store.root)}", err=True)
    if not yes:
        click.confirm(f"Remove {', '.join(names)} from {store.root}?", abort=True, err=True)
    for name in names:
        store.remove(name)
        click.echo(f"Removed {name}.")
