"""``asu-lora audit certify``: a certificate of the audit that an adapter has."""

from pathlib import Path

import click

from asu_lora.cli.audit.certificate_options import certificate_options, terms_from
from asu_lora.cli.options import adapter_names, json_option, store_option, where_option


@click.command(short_help="Sign the newest audit of the adapter NAME, and draw its page.")
@click.argument("name", shell_complete=adapter_names)
@click.argument("more", shell_complete=adapter_names, nargs=-1, metavar="[NAME[:WEIGHT]]...")
@click.option(
    "--merged",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Certify the audit of this merged folder; the NAMEs are what was baked into it.",
)
@click.option("--forget", metavar="FILE", help="The request's rows, to commit to each; without it, counts only.")
@where_option
@click.option(
    "--language", "languages", multiple=True, metavar="CODE", help="A language the rows are in; repeat it for several."
)
@certificate_options
@store_option
@json_option
def certify(*, name, more, merged, forget, where, languages, store, as_json, **typed):
    """Certify the newest audit of the adapter NAME: sign it, and draw the page.

    Reads NAME/audit.json, hashes the adapter's files, and writes certificate.json and certificate.html beside it.
    No word of the request is written: only hashes, counts and figures.

    \b
      asu-lora audit certify mira-velde --forget request.jsonl --issuer "Data Protection Office"
      asu-lora audit certify mira-velde jon-vik:0.5 --merged merged/ --forget request.jsonl
    """
    from asu_lora.adapters.fitted_weights import weighed
    from asu_lora.adapters.store import AdapterStore
    from asu_lora.audit.certificate.certify import certify_merged, certify_stored
    from asu_lora.cli.console import print_json
    from asu_lora.data.request import read_selected

    if more and not merged:
        raise click.UsageError("Several names go with --merged only: the audit of a stack names its adapters itself.")
    kept = AdapterStore(store)
    rows = read_selected(forget, dict(where)) if forget else ()
    terms = terms_from(languages=languages, **typed)
    if merged:
        issued = certify_merged(kept, merged, weighed((name, *more), kept), rows, terms)
    else:
        issued = certify_stored(kept, name, rows, terms)
    certificate = issued.certificate
    if as_json:
        print_json(
            {
                "serial": certificate.serial,
                "expires": certificate.expires,
                "certificate": str(issued.file),
                "page": str(issued.page),
                "public_key": issued.public_key,
            }
        )
        return
    click.echo(f"Certificate {certificate.serial} of {certificate.name}, valid until {certificate.expires[:10]}:")
    click.echo(f"  {issued.file}")
    click.echo(f"  {issued.page}")
    click.echo(f"  public key {issued.public_key}")
