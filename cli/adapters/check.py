"""``asu-lora adapters check``: whether adapters can be served together."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from asu_lora.cli.console import print_json, print_table
from asu_lora.cli.options import base_option, json_option, machine_options, store_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asu_lora.adapters.overlap import PairOverlap, SetOverlap
    from asu_lora.interference.measure import Interference


@click.command()
@click.argument("adapters", nargs=-1, required=True, metavar="NAME[:WEIGHT]...")
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

    From their weights alone: how far every two of them read and write the same directions, and whether they change
    them the same way (alignment). That is a coarse prediction. With --retain (or --forget) it is measured: base, each
    adapter, every two and all of them, how far the retain rows' answers move (KL, nats a token) and how probable they
    stay, and which pair is to blame.
    """
    from asu_lora.adapters.overlap import overlap
    from asu_lora.adapters.store import AdapterStore
    from asu_lora.cli.quiet import quiet_libraries

    quiet_libraries()
    from asu_lora.models.adapter_stack import adapter_folders

    opened = AdapterStore(store)
    folders = adapter_folders(adapters, opened)
    if not retain and not forget:
        found = overlap([folder for folder, _ in folders], [weight for _, weight in folders])
        return print_json(found.as_dict()) if as_json else show_weights(found)
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
    return show_measured(result)


def warn_of_interference(folders: "Sequence[str | Path]", weights: "Sequence[float]") -> None:
    """A line on stderr where the weights of adapters that become one speak against it."""
    from asu_lora.adapters.overlap import overlap

    if len(folders) > 1 and (advice := overlap(folders, weights).advice()):
        click.echo(f"Warning: {advice}", err=True)


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
    if advice:
        click.echo(found.advice() or "Their weights speak against nothing; --retain measures it.")


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
