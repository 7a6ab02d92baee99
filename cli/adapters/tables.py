"""What ``asu-lora adapters list`` and ``show`` put into their tables."""

from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from asu_lora.adapters.model_card import figure, figure_rows
from asu_lora.adapters.stored_adapter import StoredAdapter
from asu_lora.cli.console import stdout
from asu_lora.reporting.tables import number

if TYPE_CHECKING:
    from asu_lora.adapters.store import AdapterStore

NAMED = 5  # files of a list that are named one by one


def size(count: float) -> str:
    """Bytes as people read them."""
    if count < 1000:
        return f"{count} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000 or unit == "GB":
            break
    return f"{count:.1f} {unit}"


def print_list(adapters: list[StoredAdapter]) -> None:
    """A line an adapter. Without a frame, so that 80 columns are enough; as wide as it must be in a pipe."""
    from rich.table import Table

    console = stdout()
    if not console.is_terminal:
        console.width = max(console.width, 300)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1))
    for title in ("Name", "Rows", "Base", "Method", "Made", "Size", "Forget", "State"):
        table.add_column(
            title,
            justify="right" if title in ("Rows", "Size") else "left",
            overflow="fold",
            no_wrap=title not in ("Base", "Method"),
        )
    for adapter in adapters:
        table.add_row(*(Text(str(cell)) for cell in list_row(adapter)))
    console.print(table)


def list_row(adapter: StoredAdapter) -> tuple[Any, ...]:
    """Name, rows, base, method, date, size, forget probability, state; the last part of the base's id and the
    first of the state only."""
    manifest = adapter.manifest
    base = (adapter.base_id or "-").rstrip("/").split("/")[-1]
    space, state = size(adapter.size_bytes), adapter.state.split(":")[0]
    if manifest is None:
        return adapter.name, "-", base, "-", "-", space, "-", state
    before, after = (
        number(value if isinstance(value := figures.get("forget_probability"), int | float) else None)
        for figures in (manifest.figures.before, manifest.figures.after)
    )
    return (
        adapter.name,
        manifest.request.forget_rows,
        base,
        _method(manifest),
        manifest.created[:10],
        space,
        f"{before} -> {after}",
        state,
    )


def facts(adapter: StoredAdapter, missing: list[str], above: list[str]) -> list[tuple[str, str]]:
    """Everything known about one adapter but its figures, as (what, value)."""
    rows = [("Folder", str(adapter.path)), ("Size", size(adapter.size_bytes)), ("Base", adapter.base_id or "-")]
    manifest = adapter.manifest
    if manifest:
        base, method, request = manifest.base, manifest.method, manifest.request
        rows += [
            ("Base revision", base.revision or "-"),
            ("Base weights", f"fingerprint {base.fingerprint}, {base.precision}"),
            ("Method", _method(manifest)),
            ("tau chosen by", method.tau_chosen_by or "-"),
            ("Smoothed layers", _values(method.smooth_layers) if method.smooth_layers else "all"),
            ("Retain loss", method.retain_loss or "-"),
            ("Coefficients", f"forget {_value(method.forget_coeff)}, retain {_value(method.retain_coeff)}"),
            *((f"Method: {key}", _detail(key, value)) for key, value in method.details.items()),
            (
                "Request",
                f"{request.forget_rows} rows, {_value(request.forget_tokens)} answer tokens, "
                f"fingerprint {request.fingerprint}",
            ),
            (
                "Retain rows",
                f"{request.retain_rows} ({request.retain_source or 'no source'}), "
                f"{_value(request.retain_tokens)} answer tokens",
            ),
            ("Left out", f"{request.skipped_rows} rows skipped, {request.cut_rows} answers cut off"),
            *((f"Request: {key}", _value(value)) for key, value in request.counts.items()),
        ]
    lora = (
        manifest.lora
        if manifest
        else {key: adapter.adapter_config.get(key) for key in ("r", "lora_alpha", "target_modules")}
    )
    rows += [(f"LoRA {key}", _value(value)) for key, value in lora.items()]
    if manifest:
        rows += [(f"Training {key}", _value(value)) for key, value in manifest.training.items()]
        rows += [
            (
                "On top of",
                f"{below.name} at weight {below.weight:g}"
                + (" (not in the store any more)" if below.name in missing else ""),
            )
            for below in manifest.on_top_of
        ]
        rows += [
            (
                "Made",
                f"{manifest.created} by asu-lora {manifest.program_version}"
                + (f", in {manifest.wall_time_s:.0f} s" if manifest.wall_time_s is not None else ""),
            ),
            ("Peak memory", size(manifest.peak_memory_bytes) if manifest.peak_memory_bytes else "-"),
            ("Versions", ", ".join(map(" ".join, manifest.versions.items())) or "-"),
            ("Fingerprint", manifest.fingerprint or "-"),
        ]
    if above:
        rows.append(("Beneath", f"{', '.join(above)} (trained on top of this one)"))
    return [(what.replace("_", " "), value) for what, value in rows]


def figures(adapter: StoredAdapter) -> list[tuple[str, str, str]]:
    """(what, before, after)."""
    if adapter.manifest is None:
        return []
    return [(what, figure(before), figure(after)) for what, before, after in figure_rows(adapter.manifest)]


def tau_curve(adapter: StoredAdapter) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the curve that ``--tau auto`` chose from; none if tau was given."""
    curve = (adapter.manifest.method.tau_curve if adapter.manifest else None) or []
    keys = list(dict.fromkeys(key for point in curve for key in point))
    rows = [[_value(point.get(key)) for key in keys] for point in curve]
    return [key.replace("_", " ") for key in keys], rows


def _method(manifest) -> str:
    tau = manifest.method.tau
    return manifest.method.objective + (f", tau {tau:g}" if tau is not None else "")


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return _values(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _detail(key: str, value: Any) -> str:
    """A setting of the method; of chosen retain rows, their numbers in the pool stay in manifest.json."""
    if key == "retain_choice" and isinstance(value, dict):
        nearness = value.get("nearness") or {}
        return f"{nearness.get('rows')} of a pool of {value.get('pool_rows')}, {nearness.get('near')} of them near"
    return _value(value)


def _values(values) -> str:
    return ", ".join(map(str, values))


def print_taken_in(store: "AdapterStore", adapter: StoredAdapter) -> None:
    """Say what came into the store, once the certificate that it may bring is checked."""
    from asu_lora.audit.certificate.arrived import keep_if_sound

    certificate = keep_if_sound(store, adapter)
    if adapter.manifest:
        about = f"it makes {adapter.base_id} forget {adapter.manifest.request.forget_rows} rows"
    else:
        about = f"a LoRA for {adapter.base_id or 'an unnamed base'} without a manifest"
    click.echo(f"{adapter.name} is in the store ({adapter.path}): {about}.")
    if adapter.left_out:
        named = ", ".join(adapter.left_out[:NAMED])
        more = f" and {len(adapter.left_out) - NAMED} more" if len(adapter.left_out) > NAMED else ""
        click.echo(f"Left behind: {named}{more}.", err=True)
    if certificate:
        click.echo(certificate, err=True)
