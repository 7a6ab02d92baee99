"""A certificate with its signature: one line of canonical JSON with ``certificate``, ``public_key``, ``signature``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from asu_lora.audit.certificate.canonical import MAX_BYTES, canonical, read_canonical
from asu_lora.audit.certificate.record import SCHEMA, SCHEMA_VERSION, Certificate
from asu_lora.audit.certificate.signing_key import SigningKey, signed_by
from asu_lora.errors import CertificateError

# Signed before the content, so that a signature made for another purpose never fits a certificate.
PREFIX = b"asu-lora audit certificate 1\n"


@dataclass(frozen=True)
class SignedCertificate:
    """A certificate whose signature holds; whether its key is to be trusted is another question."""

    certificate: Certificate
    public_key: str
    data: bytes


def sign(certificate: Certificate, key: SigningKey) -> bytes:
    """The file of a certificate.

    Raises:
        CertificateError: a figure in it is NaN or infinite.
    """
    content = certificate.model_dump(mode="json", by_alias=True)
    signature = key.sign(PREFIX + canonical(content))
    return canonical({"certificate": content, "public_key": key.public, "signature": signature})


def read_signed(path: Path) -> SignedCertificate:
    """A certificate from its file, if its signature holds.

    Raises:
        CertificateError: it can't be read, is no certificate, unsigned, or was changed after it was signed.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise CertificateError(f"The certificate {path} can't be read: it is no file.")
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CertificateError(f"The certificate {path} can't be read: {error.strerror}.") from error
    return parse_signed(data, str(path))


def parse_signed(data: bytes, source: str) -> SignedCertificate:
    """The same from its bytes; ``source`` is what errors call it."""
    try:
        envelope = read_canonical(data)
    except CertificateError as error:
        raise CertificateError(f"{source} is no certificate to trust: {str(error).rstrip('.')}.") from error
    if not isinstance(envelope, dict) or "certificate" not in envelope:
        raise CertificateError(f"{source} is no certificate: 'asu-lora audit NAME' writes one.")
    content, public, signature = (envelope.get(name) for name in ("certificate", "public_key", "signature"))
    if not isinstance(public, str) or not isinstance(signature, str):
        raise CertificateError(f"{source} is not signed: anybody may have written it.")
    if envelope.keys() != {"certificate", "public_key", "signature"}:
        raise CertificateError(f"{source} holds more than a certificate and its signature: it was changed.")
    if signature.lower() != signature or not signed_by(public, signature, PREFIX + canonical(content)):
        raise CertificateError(f"{source} is not what was signed: it was changed, or its signature was.")
    return SignedCertificate(_record(content, source), public, data)


def _record(content: Any, source: str) -> Certificate:
    version = content.get("schema_version") if isinstance(content, dict) else None
    if content.get("schema") != SCHEMA if isinstance(content, dict) else True:
        raise CertificateError(f"{source} is signed, but not a certificate of an audit.")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise CertificateError(
            f"{source} has format version {version}, and this asu-lora reads up to {SCHEMA_VERSION}: upgrade asu-lora."
        )
    try:
        return Certificate.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        # names in it are a forger's, too: no line breaks into the sentence
        where = " ".join(ascii(".".join(map(str, first["loc"])) or "the whole")[1:-1].split())[:200]
        why = first["msg"].removeprefix("Value error, ")
        raise CertificateError(f"{source} is signed, but not a certificate to trust: {where}: {why}.") from error
