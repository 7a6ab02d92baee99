"""The key that signs certificates: ed25519, one a store, readable by its owner alone.

Who checks a certificate needs the public key, and has to get it another way than with the certificate: by a
telephone call, from a web site, from a register. A key that comes along proves nothing.
"""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from asu_lora.adapters.store import AdapterStore
from asu_lora.errors import CertificateError
from asu_lora.files import disk_errors, fsync_path, write_atomic

KEY_NAME = ".audit-key"
PUBLIC_NAME = ".audit-key.pub"
_HEX = re.compile(r"[0-9a-f]{64}")
_LONGEST = 1 << 14  # bytes of a key file


@dataclass(frozen=True)
class SigningKey:
    """A private key; ``public`` is the 32 bytes of its public half in hexadecimal."""

    private: Ed25519PrivateKey

    @property
    def public(self) -> str:
        return self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    def sign(self, message: bytes) -> str:
        """The signature, 64 bytes in hexadecimal."""
        return self.private.sign(message).hex()


def signed_by(public: str, signature: str, message: bytes) -> bool:
    """Whether the signature over ``message`` was made with the private half of ``public``; both in hexadecimal."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(bytes.fromhex(signature), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def key_of_store(store: AdapterStore) -> SigningKey:
    """The store's own key, made when it is first needed.

    Raises:
        CertificateError: the key file is damaged, or others may read it.
        StoreError: the disk refuses.
    """
    path = store.root / KEY_NAME
    with disk_errors(store.root), store.staging.lock():
        if not os.path.lexists(path):
            _make(path)
        key = read_signing_key(path)
        public, text = store.root / PUBLIC_NAME, key.public + "\n"
        if not public.is_file() or public.read_bytes() != text.encode():  # of a key that was replaced
            write_atomic(public, text)
    return key


def public_key_of_store(store: AdapterStore) -> str | None:
    """The public half of the store's key; None before it has one."""
    path = store.root / PUBLIC_NAME
    return read_public_key(str(path)) if path.is_file() else None


def read_signing_key(path: Path) -> SigningKey:
    """A private key from its file (PEM, PKCS 8, not encrypted).

    Raises:
        CertificateError: it can't be read, is no ed25519 key, or others than its owner may read it.
    """
    try:
        if os.name != "nt" and stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise CertificateError(
                f"Others may read the signing key {path}: run 'chmod 600 {path}', and make a new key if they did."
            )
        with open(path, "rb") as file:
            data = file.read(_LONGEST)
    except OSError as error:
        raise CertificateError(f"The signing key {path} can't be read: {error.strerror}.") from error
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{path} is no signing key: it has to be an unencrypted ed25519 key in PEM.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise CertificateError(f"{path} is no signing key: it has to be an ed25519 key.")
    return SigningKey(key)


def read_public_key(text_or_file: str) -> str:
    """A public key, 64 hexadecimal digits: typed, or out of a file that holds them or a PEM.

    Raises:
        CertificateError: it is neither.
    """
    if _HEX.fullmatch(text_or_file.strip()):
        return text_or_file.strip()
    try:
        if Path(text_or_file).exists() and not Path(text_or_file).is_file():  # a pipe would be waited for
            raise OSError
        with open(text_or_file, "rb") as file:
            data = file.read(_LONGEST)
    except (OSError, ValueError) as error:
        raise CertificateError(
            f"{text_or_file} is no public key: give 64 hexadecimal digits, or a file that holds them."
        ) from error
    if _HEX.fullmatch(text := data.decode("ascii", errors="replace").strip()):
        return text
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{text_or_file} holds no public key: neither 64 hexadecimal digits nor PEM.") from error
    if not isinstance(key, Ed25519PublicKey):
        raise CertificateError(f"{text_or_file} holds a public key of another kind than ed25519.")
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def make_signing_key(path: Path) -> SigningKey:
    """A new key in a new file, which only its owner may read.

    Raises:
        CertificateError: there is a file of that name.
        StoreError: the disk refuses.
    """
    if os.path.lexists(path):
        raise CertificateError(f"{path} exists: a signing key is never written over.")
    with disk_errors(path.parent, "folder"):
        path.parent.mkdir(parents=True, exist_ok=True)
        _make(path)
    return read_signing_key(path)


def _make(path: Path) -> None:
    beside = path.with_name(f"{path.name}.{uuid4().hex}")
    key = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    fsync_path(path.parent)
