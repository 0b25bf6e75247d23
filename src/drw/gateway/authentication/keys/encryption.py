"""Encryption of private keys at rest: AES-256-GCM with a key derived from a secret (HKDF-SHA256)."""

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
    """The text was encrypted with another secret or for another name, or was modified."""


class EnvelopeEncryption:
    """Encrypts and decrypts with one secret."""

    def __init__(self, secret: str) -> None:
        key = HKDF(SHA256(), KEY_BYTES, SALT, PURPOSE).derive(secret.encode())
        self._cipher = AESGCM(key)

    def encrypt(self, name: str, text: str) -> str:
        """Encrypt a text. Decryption requires the same name, which prevents that rows are swapped."""
        nonce = os.urandom(NONCE_BYTES)
        encrypted = self._cipher.encrypt(nonce, text.encode(), name.encode())
        return PREFIX + base64.b64encode(nonce + encrypted).decode()

    def decrypt(self, name: str, encrypted: str) -> str:
        """Decrypt a text.

        Raises:
            WrongSecret: it was encrypted with another secret or name, or was modified.
        """
        try:
            raw = base64.b64decode(encrypted.removeprefix(PREFIX), validate=True)
            return self._cipher.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], name.encode()).decode()
        except (InvalidTag, ValueError, binascii.Error) as error:
            raise WrongSecret(f"{name!r} does not open with this secret") from error


def is_encrypted(text: str) -> bool:
    """Return whether a text is encrypted; the first release stored plain text."""
    return text.startswith(PREFIX)
