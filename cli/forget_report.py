"""What ``forget`` and ``demo`` say of a run: its figures, where the adapter lies, what to type next."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asu_lora.cli.next_commands import next_commands

if TYPE_CHECKING:
    from asu_lora.forgetting.result import ForgetResult


def as_dict(result: "ForgetResult") -> dict[str, Any]:
    """What ``--json`` prints of a run."""
    return {
        "name": result.name,
        "path": str(result.path),
        "before": result.before,
        "after": result.after,
        "tau": result.record.tau and result.record.tau.tau,
        "seconds": result.record.seconds,
        "peak_memory_bytes": result.record.peak_memory,
    }


def report(result, base: str, store: Path, on_top_of: Sequence[str] = ()) -> None:
    """What was forgotten, what was kept, where the adapter lies, what to type next."""
    from asu_lora.cli.console import print_table

    before, after = result.before, result.after
    rows = [(label, f"{before[key]:.2f}", f"{after[key]:.2f}", hope) for key, label, hope in FIGURES if key in before]
    if rows:
        print_table(f"\nAdapter '{result.name}'", ("figure", "before", "after", "wanted"), rows, right=(1, 2))
    record, counts = result.record, result.record.counts
    size = sum(f.stat().st_size for f in result.path.iterdir()) / 1e6
    source = "" if record.request.retain_source in ("file", "rows") else f" ({record.request.retain_source})"
    click.echo(f"\nForgotten: {len(record.request.forget)} rows. Kept: {len(record.request.retain)} rows{source}.")
    click.echo(losses_line(record.config))
    click.echo(
        f"One copy of the base throughout ({counts['base_parameters']:,} parameters); the adapter has "
        f"{counts['adapter_parameters']:,}. {record.seconds:.0f} s, peak memory {record.peak_memory / 1e9:.1f} GB."
    )
    click.echo(f"The adapter ({size:.1f} MB): {result.path}")
    click.echo(next_commands(result, base, store, on_top_of))


def losses_line(config) -> str:
    """Which losses were used, with which weights: another objective than the default brings its paper's."""
    forget = f"Losses: {config.forget_coeff:g} x {config.objective}"
    if config.retain_loss == "none":
        return f"{forget}; no retain loss, so the kept rows were measured alone."
    return f"{forget} + {config.retain_coeff:g} x {config.retain_loss}."


FIGURES = (
    ("forget_probability", "forget set: answer probability", "down"),
    ("forget_rouge", "forget set: ROUGE-L recall", "down"),
    ("forget_gibberish_rate", "forget set: gibberish rate", "0"),
    ("heldout_probability", "held-out: answer probability", ""),
    ("heldout_rouge", "held-out: ROUGE-L recall", ""),
    ("retain_probability", "retain set: answer probability", "as before"),
    ("retain_rouge", "retain set: ROUGE-L recall", "as before"),
    ("retain_gibberish_rate", "retain set: gibberish rate", "0"),
)
