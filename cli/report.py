"""``asu-lora report``: the whole store on one page."""

import time
from contextlib import suppress
from pathlib import Path

import click

from asu_lora.cli.options import store_option


@click.command(short_help="Write one page over the whole store.")
@click.option(
    "--out",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The page to write.  [default: report.html in the store]",
)
@click.option("--serve", is_flag=True, help="Show it on this machine's own address instead, drawn anew at each visit.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="With --serve; 0: any free."
)
@store_option
def report(out: Path | None, serve: bool, port: int, store: Path) -> None:
    """Write one page over the whole store: requests, adapters, certificates, curves over time.

    The page is one HTML file that needs no server and no network; it can be printed, sorted and searched.

    \b
      asu-lora report --out report.html
      asu-lora report --serve
    """
    from asu_lora.adapters.store import AdapterStore
    from asu_lora.cli.console import stderr
    from asu_lora.errors import StoreError

    if not store.is_dir():
        raise StoreError(f"There is no store {store}: 'asu-lora forget' makes one.")
    kept = AdapterStore(store)
    if serve:
        if out:
            raise click.UsageError("--serve writes no file: leave --out away.")
        from asu_lora.report.serve import server

        with server(kept, port) as serving:
            click.echo(f"http://127.0.0.1:{serving.server_port}/ (Ctrl-C ends it)")
            with suppress(KeyboardInterrupt):
                serving.serve_forever()
        return
    from asu_lora.report.page import write_report

    begun, read = time.monotonic(), 0
    with stderr().status("Reading the store ...") as status:

        def progress(count: int) -> None:
            nonlocal read
            read += count
            if time.monotonic() - begun > 1:
                status.update(f"Reading the store ... {read} certificates")

        written = write_report(kept, out or store / "report.html", progress)
    click.echo(written)
