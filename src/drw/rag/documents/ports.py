"""What the documents service needs of a parser: the text of a file, page by page."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

UNSUPPORTED = "unsupported_file"
INVALID = "invalid_file"


class Refused(Exception):
    """The file cannot be read, for a reason that its owner can do something about.

    `code` is one of OpenAI's for files in vector stores: `unsupported_file` or `invalid_file`.
    """

    def __init__(self, message: str, code: str = INVALID) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one file may have."""

    pages: int
    characters: int
    unpacked_bytes: int
    """Of a file that is a packed folder, as DOCX is."""


class Parser(ABC):
    """Reads some kinds of files. It runs in a process of its own, and may crash or hang there."""

    kinds: ClassVar[frozenset[str]]
    """The endings of the names of the files it reads, as in `pdf`."""

    @abstractmethod
    def check(self, file: Path, kind: str, limits: Limits) -> None:
        """Look whether the file can be read, without reading it all.

        Raises:
            Refused: it cannot.
        """

    @abstractmethod
    def pages(self, file: Path, kind: str, limits: Limits) -> Iterator[str]:
        """Yield the text of each page, lines parted by a line feed.

        Raises:
            Refused: it cannot be read, or is over a limit.
        """
