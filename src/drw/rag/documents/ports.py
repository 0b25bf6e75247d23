"""Port of parsers: the text of a file page by page, embedded files, and decryption."""

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

    `code` is one of OpenAI's for files in vector stores, `unsupported_file` or `invalid_file`, or one of
    ours for encrypted files, `password_required` or `wrong_password`.
    """

    def __init__(self, message: str, code: str = INVALID) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


@dataclass(frozen=True, slots=True)
class ParserLimits:
    """Limits of one file, and how it is read."""

    pages: int
    characters: int
    unpacked_bytes: int
    """Of a file that is a packed folder, as DOCX is."""
    hidden: bool = False
    """Whether hidden sheets, rows, columns, slides and text are read."""


class Embedded(NamedTuple):
    """A file that is attached to another one."""

    name: str
    content: bytes


class Parser(ABC):
    """Parses some file types. It runs in a parser process, where it may crash or hang.

    One instance parses one file and collects `warnings`. The subclasses are in `drw.rag.documents.adapters`.
    """

    kinds: ClassVar[frozenset[str]]
    """The file endings that it parses, such as `pdf`."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        """Parts of the file that are damaged or hidden and were left out."""
        self.encoding = ""
        """The encoding of a text file."""

    @abstractmethod
    def check(self, file: Path, kind: str, limits: ParserLimits) -> None:
        """Check that the file can be parsed, without reading it all.

        Raises:
            ParseFailed: it cannot.
        """

    @abstractmethod
    def pages(self, file: Path, kind: str, limits: ParserLimits) -> Iterator[str]:
        """Yield the text of each page, with lines separated by line feeds.

        Raises:
            ParseFailed: it cannot be parsed, or exceeds a limit.
        """

    def embedded(self, file: Path, kind: str, limits: ParserLimits) -> Iterator[Embedded]:
        """Yield the files that are attached to this one; those inside of them are not yielded.

        Raises:
            ParseFailed: it cannot be parsed.
        """
        yield from ()

    def decrypted(self, file: Path, kind: str, password: str) -> bytes:
        """Return the decrypted bytes of an encrypted file; an empty password stands for none.

        Raises:
            ParseFailed: the password is missing or wrong, or this kind of encryption is unknown.
        """
        raise ParseFailed(f"a {kind.upper()} file cannot be decrypted here: save it without a password")
