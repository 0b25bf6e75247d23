"""Files of batches in the documents service: reads lines, and writes results, in parts of bounded size."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator

from drw.api.rag.v1.documents_pb2 import (
    File,
    FinishUploadRequest,
    GetFileRequest,
    ReadContentRequest,
    WriteUploadRequest,
)
from drw.api.rag.v1.documents_rpc import DocumentsClient

READ_BYTES = 1 << 20
WRITE_BYTES = 4 << 20
FINISH_SECONDS = 240.0
PURPOSE, OUTPUT_PURPOSE = "batch", "batch_output"


class BatchFiles:
    """Reads and writes files as the caller of the request context."""

    def __init__(self, documents: DocumentsClient) -> None:
        self._documents = documents

    async def get(self, file: str) -> File:
        """Return the record of a file.

        Raises:
            NotFound: the caller's desk has no such file, or the caller is outside its walls.
        """
        return await self._documents.get_file(GetFileRequest(file=file))

    async def lines(self, file: str, max_line_bytes: int) -> AsyncGenerator[tuple[int, bytes | None], None]:
        """Yield the number and the bytes of each line that is not blank; None for a line that is too long.

        Memory is bounded by one line and one part of the file.

        Raises:
            NotFound: the file was deleted.
        """
        offset, number, pending, too_long = 0, 1, bytearray(), False
        while part := await self._read(file, offset):
            offset += len(part)
            *ended, rest = part.split(b"\n")
            for end in ended:
                if too_long or len(pending) + len(end) > max_line_bytes:
                    yield number, None
                elif line := bytes(pending + end).strip():
                    yield number, line
                number, too_long = number + 1, False
                pending.clear()
            pending += rest
            if too_long := too_long or len(pending) > max_line_bytes:
                pending.clear()
        if too_long:
            yield number, None
        elif line := bytes(pending).strip():
            yield number, line

    def writer(self, upload: str, name: str, walls: list[str]) -> ResultFile:
        """Return a new file; `upload` is unique among all unfinished files of the desk."""
        return ResultFile(self._documents, upload, name, walls)

    async def _read(self, file: str, offset: int) -> bytes:
        request = ReadContentRequest(file=file, offset=offset, length=READ_BYTES)
        return (await self._documents.read_content(request)).content


class ResultFile:
    """A file that is written in parts."""

    def __init__(self, documents: DocumentsClient, upload: str, name: str, walls: list[str]) -> None:
        self._documents = documents
        self._upload = upload
        self._name = name
        self._walls = walls
        self._hash = hashlib.sha256()
        self._pending = bytearray()
        self._offset = 0

    async def write(self, data: bytes) -> None:
        """Append bytes."""
        self._hash.update(data)
        self._pending += data
        while len(self._pending) >= WRITE_BYTES:
            await self._send(WRITE_BYTES)

    async def finish(self) -> str:
        """Store the file and return its id; an empty id without any bytes.

        The same bytes under the same name are the same file, so a repeated attempt stores no second one.
        """
        if self._pending:
            await self._send(len(self._pending))
        if not self._offset:
            return ""
        request = FinishUploadRequest(
            upload=self._upload,
            name=self._name,
            purpose=OUTPUT_PURPOSE,
            content_hash=self._hash.hexdigest(),
            walls=self._walls,
        )
        return (await self._documents.finish_upload(request, timeout=FINISH_SECONDS)).id

    async def _send(self, size: int) -> None:
        part = bytes(self._pending[:size])
        await self._documents.write_upload(WriteUploadRequest(upload=self._upload, offset=self._offset, content=part))
        del self._pending[:size]
        self._offset += size
