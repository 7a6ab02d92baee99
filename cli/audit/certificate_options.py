"""Options of commands that issue a certificate."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asu_lora.cli.console import readable

if TYPE_CHECKING:
    from asu_lora.audit.certificate.issue import Terms


def certificate_options(command: Callable) -> Callable:
    """Who issues, for how long, with which key; :func:`terms_from` makes an object of them."""
    for option in (
        click.option(
            "--signing-key",
            type=click.Path(dir_okay=False, path_type=Path),
            envvar="ASU_LORA_AUDIT_KEY",
            show_envvar=True,
            help="The private ed25519 key (PEM) to sign with.  [default: the store's own, made when first needed]",
        ),
        click.option("--issuer", metavar="TEXT", help="Who issues the certificate, as people shall read it."),
        click.option(
            "--valid",
            metavar="DAYS",
            type=click.IntRange(1, 3650),
            default=180,
            show_default=True,
            help="Days from the end of the audit until the certificate expires.",
        ),
    ):
        command = option(command)
    return command


def terms_from(signing_key: Path | None, issuer: str | None, valid: int, **more: Any) -> "Terms":
    """The terms of a certificate out of what was typed."""
    from asu_lora.audit.certificate.issue import Terms
    from asu_lora.audit.certificate.signing_key import read_signing_key

    key = read_signing_key(signing_key) if signing_key else None
    return Terms(valid_days=valid, issuer=readable(issuer) if issuer else None, key=key, **more)
