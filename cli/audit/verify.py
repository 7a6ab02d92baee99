"""``asu-lora audit verify``: is this certificate to be trusted, and is it of this model?"""

from pathlib import Path

import click

from asu_lora.cli.options import json_option, store_option, where_option

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="PUB",
    help="A public key to trust besides the store's own: 64 digits, or a file.",
)
@click.option(
    "--adapter", "-a", "adapters", multiple=True, type=_FOLDER, help="The adapter's folder; repeat for a stack."
)
@click.option("--merged", type=_FOLDER, help="The merged folder.")
@click.option("--base", help="The base: a folder or a hub id that is here already.")
@click.option("--forget", metavar="FILE", help="The request's rows, to hold against the commitments.")
@where_option
@store_option
@json_option
def verify(*, file, keys, adapters, merged, base, forget, where, store, as_json):
    """Check the certificate FILE, without a network.

    The signature and the key, the dates, whether a newer one of the same model exists; then the files it names are
    hashed anew, found beside it, in the store, or where you say. Exits with 2 and one sentence if anything is wrong.

    \b
      asu-lora audit verify adapters/mira-velde/certificate.json
      asu-lora audit verify certificate.json --key issuer.pub --adapter mira-velde/ --base ./llama
    """
    from asu_lora.adapters.store import AdapterStore
    from asu_lora.audit.certificate.signing_key import read_public_key
    from asu_lora.audit.certificate.verify import Evidence, verify_certificate
    from asu_lora.cli.console import print_json, stderr
    from asu_lora.errors import CertificateError

    known = None
    if base is not None:
        from asu_lora.bases.source import resolve_base

        known = resolve_base(base).fingerprints()
    if forget:
        from asu_lora.data.request import read_selected

        rows = read_selected(forget, dict(where))
    evidence = Evidence(
        keys=[read_public_key(key) for key in keys],
        store=AdapterStore(store) if store.is_dir() else None,
        adapters=adapters,
        merged=merged,
        base_fingerprint=known,
        forget=rows if forget else None,
    )
    try:
        with stderr().status("Hashing files ..."):
            report = verify_certificate(file, evidence)
    except CertificateError as error:  # nothing that it says can be believed, so none of it is told
        if as_json:
            check = {"check": "signature", "ok": False, "problem": str(error), "note": None}
            print_json({"file": str(file), "ok": False, "checks": [check]})
        raise
    if as_json:
        print_json(report.as_dict())
    report.raise_if_bad()
    if not as_json:
        click.echo(f"{file}: to be trusted, certificate {report.certificate.serial} of {report.certificate.name}")
        for check in report.checks:
            click.echo(f"  {check.name}: {check.note or 'ok'}")
