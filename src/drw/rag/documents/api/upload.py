"""Streaming parser of upload forms (multipart/form-data) on python-multipart: streams the file to disk."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from drw.kernel.errors import InvalidRequest
from drw.kernel.storage.blob_store import PendingBlob
from drw.rag.documents.parsing.file_types import validate_name

PERCENT_ENCODED = re.compile(r"%(?:22|[01][0-9A-Fa-f])")
WALLS_ARRAY = "walls[]"
"""OpenAI's client sends a list as repeated fields of this name."""
MAX_FIELDS = 16
MAX_FIELD_BYTES = 4096
BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
"""The delimiter of the parts of a form (RFC 2046, 5.1.1)."""
CALLBACKS = (
    *("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end"),
    *("headers_finished", "end"),
)


class UploadForm:
    """The fields of a form and the name of its file; the bytes of the file are written to `upload`."""

    def __init__(self, content_type: str, upload: PendingBlob) -> None:
        media_type, options = parse_options_header(content_type)
        if media_type != b"multipart/form-data" or not options.get(b"boundary"):
            raise InvalidRequest("a file is uploaded as multipart/form-data with the fields purpose and file")
        if not BOUNDARY.fullmatch(options[b"boundary"]):
            raise InvalidRequest("the boundary of the form must have 1 to 70 characters of those that RFC 2046 allows")
        self.fields: dict[str, str] = {}
        self._field_value = b""
        self.file_name: str | None = None
        self._upload = upload
        self._is_complete = False
        self._headers: dict[str, bytes] = {}
        self._header_name = b""
        self._header_value = b""
        self._field_name: str | None = None
        callbacks: Any = {f"on_{name}": getattr(self, f"on_{name}") for name in CALLBACKS}
        self._parser = MultipartParser(options[b"boundary"], callbacks)

    async def read(self, body: AsyncIterator[bytes]) -> None:
        """Read and parse the form.

        Raises:
            InvalidRequest: the form is malformed or truncated, or has no file.
            TooLarge: the file has too many bytes.
        """
        try:
            async for data in body:
                self._parser.write(data)
        except FormParserError as error:
            raise InvalidRequest(f"the form cannot be read: {error}") from error
        if not self._is_complete:
            raise InvalidRequest("the form ends too soon")
        if self.file_name is None:
            raise InvalidRequest("the form has no file", param="file")

    def on_part_begin(self) -> None:
        self._headers = {}

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[self._header_name.decode("latin-1").lower()] = self._header_value
        self._header_name = b""
        self._header_value = b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", b""))
        field = _decode(options.get(b"name", b""))
        if b"filename" in options:
            self._begin_file(field, _decode(options[b"filename"]))
            return
        is_repeated = field == WALLS_ARRAY and field in self.fields
        if not is_repeated and (len(self.fields) >= MAX_FIELDS or field in self.fields or not field):
            raise InvalidRequest(
                f"the form field {field!r} has no name, is repeated, or is beyond the {MAX_FIELDS} fields of a form"
            )
        self._field_name = field
        self._field_value = f"{self.fields[field]} ".encode() if is_repeated else b""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._field_name is None:
            self._upload.write(data[start:end])
            return
        self._field_value += data[start:end]
        if len(self._field_value) > MAX_FIELD_BYTES:
            raise InvalidRequest(
                f"the field {self._field_name!r} has more than {MAX_FIELD_BYTES} bytes", param=self._field_name
            )

    def on_part_end(self) -> None:
        if self._field_name is not None:
            self.fields[self._field_name] = _decode(self._field_value)
        self._field_name = None

    def on_end(self) -> None:
        self._is_complete = True

    def _begin_file(self, field: str, name: str) -> None:
        if field != "file" or self.file_name is not None:
            raise InvalidRequest("the form must have one file, in the field 'file'", param="file")
        # Forms encode quotes and control characters as %22, %0A and so on (HTML standard, 4.10.21.8).
        self.file_name = validate_name(PERCENT_ENCODED.sub(lambda match: unquote(match[0]), name))
        self._field_name = None


def _decode(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest("the form has names or fields that are not UTF-8") from error
