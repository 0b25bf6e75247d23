"""Streaming parser of upload forms (multipart/form-data) on python-multipart: the file goes to disk in pieces."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import unquote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from drw.kernel.errors import InvalidRequest
from drw.rag.documents.parsing.file_types import checked_name
from drw.rag.documents.storage.blob_store import PendingBlob

ESCAPED = re.compile(r"%(?:22|[01][0-9A-Fa-f])")
REPEATED_WALLS = "walls[]"
MAX_FIELDS = 16
MAX_FIELD_BYTES = 4096
BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
"""The separator of the parts of a form (RFC 2046, 5.1.1)."""


class UploadForm:
    """The fields of a form and the name of its file; the bytes of the file are written to `incoming`."""

    def __init__(self, content_type: str, incoming: PendingBlob) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise InvalidRequest("a file is uploaded as multipart/form-data with the fields purpose and file")
        if not BOUNDARY.fullmatch(options[b"boundary"]):
            raise InvalidRequest("the boundary of the form must have 1 to 70 characters of those that RFC 2046 allows")
        self.fields: dict[str, str] = {}
        self._content = b""
        self.file_name: str | None = None
        self._incoming = incoming
        self._is_whole = False
        self._headers: dict[str, bytes] = {}
        self._header = b""
        self._value = b""
        self._field: str | None = None
        self._parser = MultipartParser(options[b"boundary"], _callbacks(self))

    async def read(self, body: AsyncIterator[bytes]) -> None:
        """Read the whole form.

        Raises:
            InvalidRequest: the form is malformed or truncated, or has no file.
            TooLarge: the file has too many bytes.
        """
        try:
            async for piece in body:
                self._parser.write(piece)
        except FormParserError as error:
            raise InvalidRequest(f"the form cannot be read: {error}") from error
        if not self._is_whole:
            raise InvalidRequest("the form ends too soon")
        if self.file_name is None:
            raise InvalidRequest("the form has no file", param="file")

    def on_part_begin(self) -> None:
        self._headers = {}

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[self._header.decode("latin-1").lower()] = self._value
        self._header = b""
        self._value = b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", b""))
        field = _decoded(options.get(b"name", b""))
        if b"filename" in options:
            self._begin_file(field, _decoded(options[b"filename"]))
            return
        is_more = field == REPEATED_WALLS and field in self.fields  # as OpenAI's client sends a list
        if not is_more and (len(self.fields) >= MAX_FIELDS or field in self.fields or not field):
            raise InvalidRequest(
                f"the form field {field!r} has no name, is repeated, or is beyond the {MAX_FIELDS} fields of a form"
            )
        self._field = field
        self._content = f"{self.fields[field]} ".encode() if is_more else b""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self._incoming.write(data[start:end])
            return
        self._content += data[start:end]
        if len(self._content) > MAX_FIELD_BYTES:
            raise InvalidRequest(f"the field {self._field!r} has more than {MAX_FIELD_BYTES} bytes", param=self._field)

    def on_part_end(self) -> None:
        if self._field is not None:
            self.fields[self._field] = _decoded(self._content)
        self._field = None

    def on_end(self) -> None:
        self._is_whole = True

    def _begin_file(self, field: str, name: str) -> None:
        if field != "file" or self.file_name is not None:
            raise InvalidRequest("the form must have one file, in the field 'file'", param="file")
        # In a form quotes and control characters come as %22, %0A and so on (HTML standard, 4.10.21.8).
        self.file_name = checked_name(ESCAPED.sub(lambda match: unquote(match[0]), name))
        self._field = None


def _callbacks(form: UploadForm) -> Any:
    names = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end")
    callbacks: dict[str, Callable[..., None]] = {f"on_{n}": getattr(form, f"on_{n}") for n in names}
    return callbacks | {"on_headers_finished": form.on_headers_finished, "on_end": form.on_end}


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest("the form has names or fields that are not UTF-8") from error
