"""Options of ``requests run`` on its audits: how hard, against which limit, and with which certificate."""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from asu_lora.cli.audit.certificate_options import certificate_options
from asu_lora.cli.console import readable
from asu_lora.cli.help_pages import GroupedOption

if TYPE_CHECKING:
    from asu_lora.requests.runner.audit_policy import AuditPolicy

OVER = 3  # exit code where audits brought back more than --fail-over allows, and nothing else went wrong
NAMES = (
    "depth",
    "fail_over",
    "keep_at_least",
    "floor",
    "floor_base",
    "re_audit_most",
    "certify",
    "signing_key",
    "issuer",
    "valid",
)


def audit_policy_options(command: Callable) -> Callable:
    """How adapters are audited; the command gets them as the dictionary ``policy``, see :func:`policy_from`."""

    @wraps(command)
    def gathered(**typed: Any) -> Any:
        _refuse_idle(typed["certify"])
        return command(policy={name: typed.pop(name) for name in NAMES}, **typed)

    options = (
        click.option(
            "--depth",
            type=click.Choice(["quick", "standard", "full"]),
            default="quick",
            show_default=True,
            help="How hard each audit tries: minutes, or an hour and more.",
            cls=GroupedOption,
            group="Audits",
        ),
        click.option(
            "--fail-over",
            type=click.FloatRange(0),
            metavar="SHARE",
            help="A request fails, and keeps its text, if its audit recovers more than this share of the knowledge.  "
            "[default: none; 0.5 with --forget-text]",
        ),
        click.option(
            "--keep-at-least",
            type=click.FloatRange(0, 1),
            metavar="SHARE",
            help="A request fails too if its retain rows have less than this share of their answers' probability then.",
        ),
        click.option(
            "--floor",
            metavar="FILE",
            help="Rows like the forgotten that the base never saw: what is said of them is chance.",
            cls=GroupedOption,
            group="Audits",
        ),
        click.option(
            "--floor-base",
            metavar="DIR",
            help="A model that never saw any of the requests: the better floor.",
            cls=GroupedOption,
            group="Audits",
        ),
        click.option(
            "--re-audit-most",
            type=click.IntRange(1),
            metavar="N",
            help="Audit at most N earlier requests again in one run, those first that wait longest.  [default: all]",
            cls=GroupedOption,
            group="Audits",
        ),
        click.option("--certify", is_flag=True, help="Sign a certificate of each audit that is passed."),
    )
    found = certificate_options(gathered)
    for option in reversed(options):
        found = option(found)
    return found


def _refuse_idle(certify: bool) -> None:
    """Who types a key and no --certify believes that certificates are signed; once the texts are gone none can be."""
    typed = click.get_current_context().get_parameter_source
    idle = [name for name in ("signing_key", "issuer", "valid") if typed(name) is ParameterSource.COMMANDLINE]
    if idle and not certify:
        raise click.UsageError(f"--{idle[0].replace('_', '-')} is of certificates: add --certify, or leave it out.")


def policy_from(certify: bool, signing_key: Any, issuer: str | None, valid: int, **audits: Any) -> "AuditPolicy":
    """The policy out of what was typed.

    Raises:
        CertificateError: the signing key can't be read.
    """
    from asu_lora.audit.certificate.signing_key import read_signing_key
    from asu_lora.requests.runner.audit_policy import AuditPolicy, Certifying

    if not certify:
        return AuditPolicy(**audits)
    if signing_key:
        read_signing_key(signing_key)  # before anything is trained
    return AuditPolicy(**audits, certify=Certifying(signing_key, readable(issuer) if issuer else None, valid))
