"""``asu-lora adapters check``: whether adapters can be served together."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from asu_lora.cli.console import print_json, print_table
from asu_lora.cli.options import adapter_names, base_option, json_option, machine_options, store_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asu_lora.adapters.overlap import PairOverlap, SetOverlap
    from asu_lora.adapters.serving import Finding
    from asu_lora.bases.source import BaseSource
    from asu_lora.interference.measure import Interference

NOT_SERVED = 3  # the exit code of --serves where a server would refuse


@click.command(short_help="See whether adapters can be active together.")
@click.argument("adapters", shell_complete=adapter_names, nargs=-1, required=True, metavar="NAME[:WEIGHT]...")
@click.option("--retain", metavar="FILE", help="What must be kept: the sum is measured on its rows.")
@click.option(
    "--forget",
    multiple=True,
    metavar="FILE",
    help="What was to be forgotten: measured too. Repeat it for each request.",
)
@click.option(
    "--questions", type=click.IntRange(1), default=40, show_default=True, help="Most rows of a file, spread evenly."
)
@click.option(
    "--serves",
    metavar="SERVER,...",
    help="Say what vllm, tgi or llama.cpp would refuse of each adapter, or serve wrongly, by their documented limits. "
    "Nothing is measured then; exit with 3 if any would.",
)
@base_option
@machine_options
@store_option
@json_option
def check(
    *,
    adapters: tuple[str, ...],
    retain: str | None,
    forget: tuple[str, ...],
    questions: int,
    serves: str | None,
    base: str,
    precision: str,
    device: str | None,
    trust_remote_code: bool,
    store: Path,
    as_json: bool,
) -> None:
    """See whether adapters can be active together, before they are served.

    \b
      asu-lora adapters check anna ben carl
      asu-lora adapters check anna ben carl --retain keep.jsonl --forget anna.jsonl --base B
      asu-lora adapters check anna --serves vllm,tgi,llama.cpp

    From their weights alone: how far every two of them read and write the same directions, and whether they change
    them the same way (alignment). That is a coarse prediction. With --retain (or --forget) it is measured: base, each
    adapter, every two and all of them, how far the retain rows' answers move (KL, nats a token) and how probable they
    stay, and which pair is to blame.
    """
    from asu_lora.adapters.fitted_weights import fitting
    from asu_lora.adapters.overlap import overlap
    from asu_lora.adapters.store import AdapterStore
    from asu_lora.cli.quiet import quiet_libraries

    if serves and (retain or forget):
        raise click.UsageError("--serves reads files alone, and --retain and --forget measure: use one or the other.")
    quiet_libraries()
    from asu_lora.models.adapter_stack import adapter_folders

    folders = adapter_folders(adapters, opened := AdapterStore(store))
    if serves:
        return show_serving(serving(folders, serves, base), as_json)
    if not retain and not forget:
        found = overlap([folder for folder, _ in folders], [weight for _, weight in folders])
        show_unmeasured(found, fitting(folders), as_json)
        return None if as_json else note_on_fit(adapters, folders)
    from asu_lora.cli.progress import Bars
    from asu_lora.data.request import general_retain, read_examples
    from asu_lora.interference.measure import measure
    from asu_lora.models.loading import load_base

    forgotten = {source: read_examples(source) for source in forget}
    kept = read_examples(retain) if retain else general_retain([e for rows in forgotten.values() for e in rows])
    with Bars() as progress:
        progress.stage("Loading the base")
        loaded = load_base(base, precision, device, trust_remote_code=trust_remote_code)
        result = measure(loaded, folders, opened, kept, forgotten, most=questions, progress=progress)
    if as_json:
        return print_json(result.as_dict())
    show_weights(result.overlap, advice=False)
    show_measured(result)
    show_fitted(result.overlap.names, result.fitted, result.pressure)
    return note_on_fit(adapters, folders)


def note_on_fit(typed: "Sequence[str]", folders: "Sequence[tuple[Path, float]]") -> None:
    """Why no weights are fitted, where some adapters could be."""
    from asu_lora.adapters.fitted_weights import told

    for note in told(typed, folders):
        click.echo(note)


def serving(folders: "Sequence[tuple[Path, float]]", servers: str, base: str) -> "list[Finding]":
    """What the servers would do; the base is the typed one, else the one that the adapters name."""
    from asu_lora.adapters.lora_folder import read_adapter
    from asu_lora.adapters.serving import serving_findings
    from asu_lora.bases.base_config import base_config
    from asu_lora.errors import BaseModelError

    loras = [read_adapter(folder) for folder, _ in folders]
    typed = click.get_current_context().get_parameter_source("base") is ParameterSource.COMMANDLINE
    try:
        config = base_config(base if typed else loras[0].base_id or base)
    except BaseModelError:
        if typed:
            raise
        config = None
    names = [name.strip().lower() for name in servers.split(",") if name.strip()]
    return serving_findings(loras, [weight for _, weight in folders], names, config)


def show_serving(found: "list[Finding]", as_json: bool) -> None:
    """A row a finding; exit code 3 if a server would refuse an adapter or serve it wrongly."""
    if as_json:
        print_json([finding.as_dict() for finding in found])
    else:
        rows = [(each.adapter, each.server, each.verdict, each.why) for each in found]
        print_table("Before they are served", ("Adapter", "Server", "it", "because"), rows, wrap=(0, 3))
    if any(finding.bad for finding in found):
        click.get_current_context().exit(NOT_SERVED)


def note_on_weights(
    typed: "Sequence[str]", chosen: "Sequence[tuple[Path, float]]", base: "BaseSource | None" = None
) -> None:
    """What stderr should say of adapters that become one, or a part of their base: their weights, and warnings."""
    from asu_lora.adapters.fitted_weights import told
    from asu_lora.models.stack_notes import missing_ground, named_otherwise

    for note in told(typed, chosen):
        click.echo(f"Note: {note}", err=True)
    for note in [*missing_ground(chosen), *(named_otherwise(chosen, base) if base else [])]:
        click.echo(f"Warning: {note}", err=True)
    warn_of_weights([folder for folder, _ in chosen], [weight for _, weight in chosen])


def warn_of_weights(folders: "Sequence[str | Path]", weights: "Sequence[float]") -> None:
    """A line on stderr where the weights of adapters that become one change nothing, or speak against it."""
    from asu_lora.adapters.overlap import overlap

    found = overlap(folders, weights)
    for warning in (found.changes_nothing(), found.advice()):
        if warning:
            click.echo(f"Warning: {warning}", err=True)


def show_unmeasured(found: "SetOverlap", fitted: "list[float] | None", as_json: bool) -> None:
    """What the files alone say."""
    if as_json:
        return print_json(found.as_dict() | {"fitted": fitted})
    show_weights(found)
    return show_fitted(found.names, fitted)


def show_weights(found: "SetOverlap", advice: bool = True) -> None:
    """A row a pair, the norms, and one sentence."""
    rows = [
        (
            f"{pair.first} + {pair.second}",
            f"{pair.read:.2f}",
            f"{pair.write:.2f}",
            f"{pair.cosine:.2f}",
            f"{pair.alignment:.2f}",
            pair.modules[0].module if pair.modules else "-",
            prediction(pair),
        )
        for pair in found.pairs
    ]
    if rows:
        columns = ("Pair", "reads", "writes", "cosine", "alignment", "most in", "prediction")
        print_table("By their weights", columns, rows, right=(1, 2, 3, 4), wrap=(0, 5))
    norms = ", ".join(f"{name} {norm:.3g}" for name, norm in zip(found.names, found.norms, strict=True))
    click.echo(f"Norms: {norms}; of the sum {found.sum_norm:.3g}, {found.growth:.2f} times that of unrelated updates.")
    if nothing := found.changes_nothing():
        click.echo(f"Warning: {nothing}")
    elif advice:
        click.echo(found.advice() or "Their weights speak against nothing; --retain measures it.")


def show_fitted(names: "Sequence[str]", fitted: "Sequence[float] | None", pressure: float | None = None) -> None:
    """The weights at which each adapter forgets in the sum what it forgets alone."""
    if pressure is not None:
        click.echo(f"Beside another adapter a forgotten answer loses {pressure:.3f} nats more.")
    if fitted:
        from asu_lora.adapters.adapter_spec import weighted

        spelled = " ".join(weighted(name, weight) for name, weight in zip(names, fitted, strict=True))
        what = "each request is forgotten as by its adapter alone"
        click.echo(
            f"Served together they act at {spelled}, where {what}."
            if pressure is None
            else f"By that figure {what} if you type {spelled}; names alone reckon with what their updates share."
        )


def prediction(pair: "PairOverlap") -> str:
    """What is expected of a pair, in a word or two."""
    if pair.interferes:
        return "interferes"
    return "trained on it" if pair.related else ("trained to add up" if pair.additive else "")


def show_measured(result: "Interference") -> None:
    """A row a state, and one sentence."""
    from asu_lora.interference.measure import spelled

    names = list(result.base.forget)
    states = [result.base, *result.singles, *(result.pairs if len(result.singles) > 2 else []), result.total]
    rows = [
        (
            spelled(state),
            f"{state.retain_kl:.3f}",
            f"{state.retain_probability:.3f}",
            *(f"{state.forget[name]:.3f}" for name in names),
        )
        for state in [*states, *([result.scaled] if result.scaled else [])]
    ]
    columns = ("Active", "retain KL", "retain prob.", *(f"{Path(name).stem} prob." for name in names))
    print_table("Measured", columns, rows, right=tuple(range(1, len(columns))), wrap=(0,))
    click.echo(result.advice())
