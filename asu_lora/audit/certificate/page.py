"""The certificate as a page for people: one HTML file, drawn from the signed content and nothing else."""

import hashlib
import re
from functools import cache
from pathlib import Path

from asu_lora.audit.certificate.canonical import MAX_BYTES
from asu_lora.audit.certificate.figures import attack_curves, attack_track, by_kind, recovered_interval
from asu_lora.audit.certificate.signed import SignedCertificate, read_signed
from asu_lora.audit.certificate.wording import (
    attack_name,
    figure_name,
    outcome,
    percent,
    rate,
    setting,
    shared_notes,
    verdict,
)
from asu_lora.files import disk_errors, write_atomic
from asu_lora.reporting.html.intervals import scale
from asu_lora.reporting.html.pages import environment, stamp
from asu_lora.reporting.html.shapes import BEFORE, CONTROL, NEVER, NOW, legend
from asu_lora.version import __version__

HERE = Path(__file__).parent
_GENERATOR = re.compile(r'<meta name="generator" content="([^"]*)">')


def render_page(signed: SignedCertificate) -> str:
    """The page; the same certificate always gives the same text."""
    certificate = signed.certificate
    first, second = verdict(certificate.tried.attacks)
    shared, notes = shared_notes(certificate.tried.attacks)
    return _template().render(
        generator=generator(),
        certificate=certificate,
        sha256=hashlib.sha256(signed.data).hexdigest(),
        public_key=signed.public_key,
        finding=first,
        basis=second,
        kinds=by_kind(certificate.tried.attacks),
        controls=any(r.control for a in certificate.tried.attacks for r in a.readings),
        legend=legend(_roles(signed)),
        scale=scale(),
        track=attack_track,
        curves=attack_curves,
        recovered=recovered_interval,
        shared_notes=shared,
        notes=notes,
        outcome=outcome,
        setting=setting,
        attack_name=attack_name,
        figure_name=figure_name,
        percent=percent,
        rate=rate,
    )


def write_page(file: Path, out: Path) -> Path:
    """Draw the page of a certificate's file.

    Raises:
        CertificateError: see :func:`~.signed.read_signed`.
        StoreError: the disk refuses.
    """
    text = render_page(read_signed(file))
    with disk_errors(out.parent, "folder"):
        write_atomic(out, text)
    return out


def _roles(signed: SignedCertificate) -> list:
    readings = [a.readings[0] for a in signed.certificate.tried.attacks if a.readings]
    there = {"floor": NEVER, "control": CONTROL, "ceiling": BEFORE}
    return [NOW, *(role for key, role in there.items() if any(getattr(reading, key) for reading in readings))]


def page_differs(signed: SignedCertificate, page: Path) -> bool | None:
    """Whether a page says anything else than the certificate; None where another version of this program drew it."""
    try:
        with open(page, "rb") as file:
            data = file.read(4 * MAX_BYTES)
    except OSError:
        return None
    found = _GENERATOR.search(data[:4096].decode("utf-8", errors="replace"))
    if found and found[1] != generator():
        return None
    return data != render_page(signed).encode()


@cache
def generator() -> str:
    """Which program drew a page: version, and a hash of the templates."""
    return f"asu-lora {__version__}, page {stamp(HERE)}"


@cache
def _template():
    return environment(HERE).get_template("certificate.html.jinja")
