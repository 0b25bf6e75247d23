"""Decryption of Office files with a password (MS-OFFCRYPTO)."""

from __future__ import annotations

import io
from pathlib import Path

import msoffcrypto
from msoffcrypto.format.ooxml import OOXMLFile

from drw.rag.documents.ports import PASSWORD_REQUIRED, WRONG_PASSWORD, ParseFailed

OLE_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""The first bytes of encrypted Office files, and of the binary formats before Office 2007."""
DEFAULT_PASSWORD = "VelvetSweatshop"
"""Excel encrypts a workbook whose structure is protected with this password, and opens it without a prompt."""
ENCRYPTED = "this file is encrypted: give its password in the field 'password'"
LEGACY = "this file is of an Office before 2007: save it in today's format"


def check(file: Path, *, is_legacy: bool = False) -> None:
    """Check that a file can be read without a password. `is_legacy`: the format is from before Office 2007.

    Raises:
        ParseFailed: the file is encrypted, or its format does not match its extension.
    """
    with file.open("rb") as content:
        if content.read(len(OLE_MAGIC)) != OLE_MAGIC:
            return
    try:
        with file.open("rb") as content:
            is_encrypted = msoffcrypto.OfficeFile(content).is_encrypted()
    except Exception as error:  # msoffcrypto raises many kinds of errors
        if is_legacy:
            return
        raise ParseFailed(LEGACY) from error
    if is_encrypted:
        raise ParseFailed(ENCRYPTED, PASSWORD_REQUIRED)
    if not is_legacy:
        raise ParseFailed(LEGACY)


def decrypt(file: Path, password: str) -> bytes:
    """Return the decrypted bytes of a file.

    Raises:
        ParseFailed: the password is missing or wrong, or the encryption is unknown or damaged.
    """
    for candidate in (password, DEFAULT_PASSWORD):
        if candidate and (content := _decrypt(file, candidate)):
            return content
    if password:
        raise ParseFailed("the password of this file is wrong", WRONG_PASSWORD)
    raise ParseFailed(ENCRYPTED, PASSWORD_REQUIRED)


def _decrypt(file: Path, password: str) -> bytes:
    output = io.BytesIO()
    try:
        with file.open("rb") as content:
            office = msoffcrypto.OfficeFile(content)
            options = {"verify_password": True} if isinstance(office, OOXMLFile) else {}  # others always verify
            office.load_key(password=password, **options)
            office.decrypt(output)
    except msoffcrypto.exceptions.InvalidKeyError:
        return b""
    except Exception as error:  # noqa: BLE001 - msoffcrypto raises many kinds of errors
        # The cause may quote the password: it must not be part of this error.
        raise ParseFailed(f"this file cannot be decrypted: {type(error).__name__}") from None
    return output.getvalue()
