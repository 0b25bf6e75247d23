"""Settings of reading and indexing documents."""

from __future__ import annotations

from drw.kernel.runtime.settings import Settings as Base
from drw.rag.documents.ports import ParserLimits


class ParsingSettings(Base):
    """Bounds of reading one file, and how many are read at once."""

    max_pages: int = 3000
    """Pages of one file."""
    max_characters: int = 20_000_000
    """Characters of text in one file."""
    max_unpacked_bytes: int = 256 << 20
    """What a compressed file may unpack to."""
    memory_mebibytes: int = 1536
    """What reading one file may hold in memory."""
    seconds: int = 300
    """The longest that one file may take, in seconds."""
    base_cpu_seconds: int = 20
    """The processor time that every file has; see `cpu_seconds_per_mebibyte`."""
    cpu_seconds_per_mebibyte: int = 15
    """The processor time for a file: the base, and so much for each mebibyte of it, but at most `seconds`."""
    workers: int = 3
    """Files that are read at once, and as many that are checked while they are uploaded. One org has all but one."""
    read_hidden: bool = False
    """Whether hidden sheets, rows, columns, slides and text are read and indexed."""
    max_attached_files: int = 100
    """Files attached to one file, over all depths."""
    max_attached_bytes: int = 256 << 20
    """Of all files attached to one file."""
    max_attachment_depth: int = 3
    """How deep attachments of attachments are kept."""

    @property
    def limits(self) -> ParserLimits:
        """The limits that a parser sees."""
        return ParserLimits(self.max_pages, self.max_characters, self.max_unpacked_bytes, self.read_hidden)


class Settings(ParsingSettings):
    """Settings of the service."""

    max_file_bytes: int = 512 << 20
    """The size of one file."""
    max_chunks: int = 20_000
    """Passages of one file."""
    indexers: int = 3
    """How many workers index, of which one org has all but one; 0: none here, but in other processes of the service."""
