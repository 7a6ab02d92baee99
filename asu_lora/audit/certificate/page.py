"""The certificate as a page for people: one HTML file, drawn from the signed content and nothing else."""

import hashlib
import re
from functools import cache
from pathlib import Path

from asu_lora.audit.certificate.canonical import MAX_BYTES
from asu_lora.audit.certificate.figures import attack_curves, attack_track, by_kind, recovered_interval
from asu_lora.audit.certificate.signed import SignedCertificate, read_signed
from asu_lora.audit.certificate.signing_key import SigningKey, signed_by
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
_PREFIX = b"asu-lora certificate page 1\n"
_SEAL = re.compile(rb"<!-- ([0-9a-f]{128}) -->\n\Z")
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


def sealed_page(signed: SignedCertificate, key: SigningKey) -> str:
    """The page with a signature of its own at its end, by which any later version can tell that it is whole."""
    text = render_page(signed)
    return f"{text}<!-- {key.sign(_to_sign(signed, text.encode()))} -->\n"


def page_problem(signed: SignedCertificate, page: Path) -> str | None:
    """Why a page is not to be read; None for one that says what the certificate does.

    Args:
        page: a file. Which version drew it is told by itself, and so is no excuse: what this version would not draw
            has to bear the signature of the certificate's key.
    """
    try:
        with open(page, "rb") as file:
            data = file.read(4 * MAX_BYTES)
    except OSError as error:
        return f"{page.name} beside it can't be read: {error.strerror}."
    body, seal = (data[: found.start()], found[1].decode()) if (found := _SEAL.search(data)) else (data, "")
    if body == render_page(signed).encode() or (seal and signed_by(signed.public_key, seal, _to_sign(signed, body))):
        return None
    drawn = _GENERATOR.search(body[:4096].decode("utf-8", errors="replace"))
    if drawn and drawn[1] != generator():
        return (
            f"{page.name} beside it is of another version of this program and not signed, so nobody can tell whether "
            "it was changed: 'asu-lora audit page' draws it anew."
        )
    return f"{page.name} beside it says something else: don't read that; 'asu-lora audit page' draws it anew."


def _to_sign(signed: SignedCertificate, page: bytes) -> bytes:
    return _PREFIX + hashlib.sha256(signed.data).hexdigest().encode() + b"\n" + page


@cache
def generator() -> str:
    """Which program drew a page: version, and a hash of the templates."""
    return f"asu-lora {__version__}, page {stamp(HERE)}"


@cache
def _template():
    return environment(HERE).get_template("certificate.html.jinja")
