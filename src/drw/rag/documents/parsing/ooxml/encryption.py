"""Decryption of Office files with a password (MS-OFFCRYPTO)."""

from __future__ import annotations

import io
from pathlib import Path

import msoffcrypto
from msoffcrypto.format.ooxml import OOXMLFile

from drw.rag.documents.ports import PASSWORD_REQUIRED, WRONG_PASSWORD, ParseFailed

OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""How encrypted Office files begin, and those of before 2007."""
DEFAULT_PASSWORD = "VelvetSweatshop"
ENCRYPTED = "this file is encrypted: give its password in the field 'password'"
OLD = "this file is of an Office before 2007: save it in today's format"


def check(file: Path, *, is_old: bool = False) -> None:
    """Look whether a file can be read without a password. `is_old`: formats of before 2007 are wanted.

    Raises:
        ParseFailed: it is encrypted, or of another format than its name says.
    """
    with file.open("rb") as content:
        if content.read(len(OLE)) != OLE:
            return
    try:
        with file.open("rb") as content:
            is_encrypted = msoffcrypto.OfficeFile(content).is_encrypted()
    except Exception as error:
        if is_old:
            return
        raise ParseFailed(OLD) from error
    if is_encrypted:
        raise ParseFailed(ENCRYPTED, PASSWORD_REQUIRED)
    if not is_old:
        raise ParseFailed(OLD)


def decrypted(file: Path, password: str) -> bytes:
    """Return the file without its encryption.

    Raises:
        ParseFailed: the password is missing or wrong, or the encryption is unknown or damaged.
    """
    for attempt in (password, DEFAULT_PASSWORD):
        if attempt and (content := _decrypted(file, attempt)):
            return content
    if password:
        raise ParseFailed("the password of this file is wrong", WRONG_PASSWORD)
    raise ParseFailed(ENCRYPTED, PASSWORD_REQUIRED)


def _decrypted(file: Path, password: str) -> bytes:
    plain = io.BytesIO()
    try:
        with file.open("rb") as content:
            office = msoffcrypto.OfficeFile(content)
            options = {"verify_password": True} if isinstance(office, OOXMLFile) else {}  # others always verify
            office.load_key(password=password, **options)
            office.decrypt(plain)
    except msoffcrypto.exceptions.InvalidKeyError:
        return b""
    except Exception as error:  # noqa: BLE001 - its parsers raise whatever they meet
        # The cause may quote the password: it must not be part of this error.
        raise ParseFailed(f"this file cannot be decrypted: {type(error).__name__}") from None
    return plain.getvalue()
