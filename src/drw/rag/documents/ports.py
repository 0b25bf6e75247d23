"""Port of document parsers: the text of a file page by page, its attachments, and decryption."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

UNSUPPORTED = "unsupported_file"
INVALID = "invalid_file"
PASSWORD_REQUIRED = "password_required"
WRONG_PASSWORD = "wrong_password"


class ParseFailed(Exception):
    """The file cannot be parsed, for a reason that its owner can fix.

    `code` is `unsupported_file` or `invalid_file`, as in OpenAI's vector store files, or for encrypted files
    `password_required` or `wrong_password`.
    """

    def __init__(self, message: str, code: str = INVALID) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


@dataclass(frozen=True, slots=True)
class ParserLimits:
    """Limits and options of parsing one file."""

    pages: int
    characters: int
    unpacked_bytes: int
    """Maximum unpacked size of an archive, such as DOCX."""
    hidden: bool = False
    """Whether to parse hidden sheets, rows, columns, slides and text."""


class Attachment(NamedTuple):
    """A file attached to or embedded in another file."""

    name: str
    content: bytes


class Parser(ABC):
    """Parses some file types, in a parser process: a crash or a hang affects no other file.

    One instance parses one file and collects `warnings`. The subclasses are in `drw.rag.documents.adapters`.
    """

    extensions: ClassVar[frozenset[str]]
    """The supported file extensions, such as `pdf`."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        """Parts of the file that were skipped because they are damaged or hidden."""
        self.encoding = ""
        """The encoding of a text file."""

    @abstractmethod
    def check(self, file: Path, extension: str, limits: ParserLimits) -> None:
        """Check quickly that the file can be parsed, without parsing all of it.

        Raises:
            ParseFailed: it cannot be parsed.
        """

    @abstractmethod
    def pages(self, file: Path, extension: str, limits: ParserLimits) -> Iterator[str]:
        """Yield the text of each page, with lines separated by line feeds.

        Raises:
            ParseFailed: the file cannot be parsed, or exceeds a limit.
        """

    def attachments(self, file: Path, extension: str, limits: ParserLimits) -> Iterator[Attachment]:
        """Yield the attachments of this file, but not their own attachments.

        Raises:
            ParseFailed: the file cannot be parsed.
        """
        yield from ()

    def decrypt(self, file: Path, extension: str, password: str) -> bytes:
        """Return the decrypted bytes of an encrypted file; an empty password means no password.

        Raises:
            ParseFailed: the password is missing or wrong, or the encryption is not supported.
        """
        raise ParseFailed(f"a {extension.upper()} file cannot be decrypted here: save it without a password")
