"""What the documents service needs of a parser: the text of a file, page by page."""

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
    """The file cannot be read, for a reason that its owner can do something about.

    `code` is one of OpenAI's for files in vector stores, `unsupported_file` or `invalid_file`, or one of
    ours for encrypted files, `password_required` or `wrong_password`.
    """

    def __init__(self, message: str, code: str = INVALID) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


@dataclass(frozen=True, slots=True)
class ParserLimits:
    """The most that one file may have, and how it is read."""

    pages: int
    characters: int
    unpacked_bytes: int
    """Of a file that is a packed folder, as DOCX is."""
    hidden: bool = False
    """Whether hidden sheets, rows, columns, slides and text are read."""


class Embedded(NamedTuple):
    """A file inside another one."""

    name: str
    content: bytes


class Parser(ABC):
    """Reads some kinds of files. It runs in a process of its own, and may crash or hang there.

    One instance reads one file; `warnings` fills while it is read.
    """

    kinds: ClassVar[frozenset[str]]
    """The endings of the names of the files it reads, as in `pdf`."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        """What a reader of the text must know: parts that are damaged or hidden and were left out."""
        self.encoding = ""
        """The encoding of a text file."""

    @abstractmethod
    def check(self, file: Path, kind: str, limits: ParserLimits) -> None:
        """Look whether the file can be read, without reading it all.

        Raises:
            Refused: it cannot.
        """

    @abstractmethod
    def pages(self, file: Path, kind: str, limits: ParserLimits) -> Iterator[str]:
        """Yield the text of each page, lines parted by a line feed.

        Raises:
            Refused: it cannot be read, or is over a limit.
        """

    def embedded(self, file: Path, kind: str, limits: ParserLimits) -> Iterator[Embedded]:
        """Yield the files that are attached to this one; those inside of them are not yielded.

        Raises:
            Refused: it cannot be read.
        """
        yield from ()

    def decrypted(self, file: Path, kind: str, password: str) -> bytes:
        """Return an encrypted file without its encryption; an empty password stands for none.

        Raises:
            Refused: the password is missing or wrong, or this kind of encryption is unknown.
        """
        raise ParseFailed(f"a {kind.upper()} file cannot be decrypted here: save it without a password")
