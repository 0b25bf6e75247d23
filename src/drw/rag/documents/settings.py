"""Settings of the documents service: parsing limits and indexing workers."""

from __future__ import annotations

from drw.kernel.runtime.settings import Settings as Base
from drw.rag.documents.ports import ParserLimits


class ParsingSettings(Base):
    """Limits of parsing one file, and the number of parser processes."""

    max_pages: int = 3000
    """Pages of one file."""
    max_characters: int = 20_000_000
    """Characters of text in one file."""
    max_unpacked_bytes: int = 256 << 20
    """Unpacked size of a compressed file."""
    memory_mebibytes: int = 1536
    """Memory of one parser process."""
    seconds: int = 300
    """Time to parse one file, in seconds."""
    base_cpu_seconds: int = 20
    """Processor time for every file; see `cpu_seconds_per_mebibyte`."""
    cpu_seconds_per_mebibyte: int = 15
    """Processor time for each mebibyte of a file in addition to the base; at most `seconds` in total."""
    workers: int = 3
    """Files parsed at once, and as many checked during upload. One org uses at most all but one."""
    read_hidden: bool = False
    """Whether hidden sheets, rows, columns, slides and text are indexed."""
    max_attached_files: int = 100
    """Files attached to one file, over all depths."""
    max_attached_bytes: int = 256 << 20
    """Total size of the files attached to one file."""
    max_attachment_depth: int = 3
    """Depth up to which attachments of attachments are stored."""

    @property
    def limits(self) -> ParserLimits:
        """The limits passed to a parser."""
        return ParserLimits(self.max_pages, self.max_characters, self.max_unpacked_bytes, self.read_hidden)


class Settings(ParsingSettings):
    """Settings of the service."""

    max_file_bytes: int = 512 << 20
    """Size of one file."""
    max_chunks: int = 20_000
    """Chunks of one file."""
    indexers: int = 3
    """Indexing workers of this process. One org uses at most all but one. 0: other processes index."""
