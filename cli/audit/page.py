"""``asu-lora audit page``: a certificate as a page for people."""

from pathlib import Path

import click


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--out",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The page to write.  [default: FILE with .html]",
)
def page(file: Path, out: Path | None) -> None:
    """Draw the page of the certificate FILE anew, from what was signed.

    The page is one HTML file without scripts or anything to fetch. Whether the certificate is to be trusted says
    'asu-lora audit verify'.
    """
    from asu_lora.audit.certificate.page import write_page

    click.echo(write_page(file, out or file.with_suffix(".html")))
