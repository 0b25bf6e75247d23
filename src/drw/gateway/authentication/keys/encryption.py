"""Seals private keys for the time at which they lie in the database: AES-256-GCM under a key made from a secret."""

from __future__ import annotations

import base64
import binascii
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from drw.kernel.errors import InternalError

PREFIX = "sealed:1:"
KEY_BYTES = 32
NONCE_BYTES = 12
SALT = b"drw.gateway.authentication"
PURPOSE = b"signing keys, version 1"


class WrongSecret(InternalError):
    """What is sealed was sealed under another secret, or changed since."""


class EnvelopeEncryption:
    """Seals and opens with one secret."""

    def __init__(self, secret: str) -> None:
        key = HKDF(SHA256(), KEY_BYTES, SALT, PURPOSE).derive(secret.encode())
        self._cipher = AESGCM(key)

    def seal(self, name: str, text: str) -> str:
        """Return the text sealed; it opens under the same name only, so that rows cannot be swapped."""
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, text.encode(), name.encode())
        return PREFIX + base64.b64encode(nonce + sealed).decode()

    def open(self, name: str, sealed: str) -> str:
        """Return the text.

        Raises:
            WrongSecret: it was sealed under another secret or name, or is not whole.
        """
        try:
            raw = base64.b64decode(sealed.removeprefix(PREFIX), validate=True)
            return self._cipher.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], name.encode()).decode()
        except (InvalidTag, ValueError, binascii.Error) as error:
            raise WrongSecret(f"{name!r} does not open with this secret") from error


def is_sealed(text: str) -> bool:
    """Return whether a text is sealed; those written by the first release are not."""
    return text.startswith(PREFIX)
