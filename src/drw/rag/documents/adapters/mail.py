"""Parser of e-mail and its attachments: EML with Python's `email`, Outlook's MSG with Kreuzberg and olefile."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import olefile

from drw.rag.documents.adapters import kreuzberg
from drw.rag.documents.parsing import encodings
from drw.rag.documents.parsing.ooxml.encryption import OLE_MAGIC
from drw.rag.documents.parsing.pages import split_long
from drw.rag.documents.ports import Attachment, ParseFailed, Parser, ParserLimits

HEADERS = ("Subject", "From", "To", "Cc", "Date")
EXTENSIONS = {"text/plain": "txt", "text/html": "html", "text/csv": "csv", "application/pdf": "pdf"}
MAX_PARTS = 2000
# Stream names in MSG files, with the property tags of MS-OXPROPS.
LONG_FILENAME = "__substg1.0_3707"
SHORT_FILENAME = "__substg1.0_3704"
ATTACHMENT_DATA = "__substg1.0_37010102"
STRING_ENCODINGS = {"001F": "utf-16-le", "001E": "cp1252"}


class Mail(Parser):
    """Returns the visible headers, then the body: plain text if the e-mail has both plain text and HTML."""

    extensions = frozenset({"eml", "msg"})

    def check(self, file: Path, extension: str, limits: ParserLimits) -> None:
        if file.stat().st_size > limits.unpacked_bytes:
            raise ParseFailed(f"this file has {file.stat().st_size:,} bytes; mail may have {limits.unpacked_bytes:,}")
        with file.open("rb") as content:
            head = content.read(4096)
        if extension == "msg" and not head.startswith(OLE_MAGIC):
            raise ParseFailed("this is not a MSG file, although its name ends in .msg")
        if extension == "eml" and b":" not in head:
            raise ParseFailed("this is not an e-mail: it has no headers")

    def pages(self, file: Path, extension: str, limits: ParserLimits) -> Iterator[str]:
        self.check(file, extension, limits)
        if extension == "msg":
            return split_long([kreuzberg.text(file.read_bytes(), extension)])
        return split_long(["\n\n".join(self._sections(_read(file)))])

    def attachments(self, file: Path, extension: str, limits: ParserLimits) -> Iterator[Attachment]:
        self.check(file, extension, limits)
        yield from _outlook_attachments(file) if extension == "msg" else _attachments(_read(file))

    def _sections(self, message: Message) -> Iterator[str]:
        if subject := _header(message, "Subject"):
            yield f"# {subject}"
        headers = [f"{name}: {text}" for name in HEADERS[1:] if (text := _header(message, name))]
        if headers:
            yield "\n".join(headers)
        yield from self._bodies(message)
        if names := [item.name for item in _attachments(message)]:
            yield f"Attachments: {', '.join(names)}"

    def _bodies(self, message: Message) -> Iterator[str]:
        """Yield the texts of the body; of alternatives plain text, or else the last one that is not empty."""
        if message.get_content_type() == "multipart/alternative":
            alternatives = [
                (part, text) for part in _parts(message) if (text := "\n\n".join(self._bodies(part)).strip())
            ]
            plain = (text for part, text in alternatives if part.get_content_type() == "text/plain")
            if text := next(plain, alternatives[-1][1] if alternatives else ""):
                yield text
        elif message.is_multipart() and message.get_content_maintype() == "multipart":
            for part in _parts(message):
                yield from self._bodies(part)
        elif message.get_content_maintype() == "text" and not _is_attached(message):
            yield self.part_text(message)

    def part_text(self, message: Message) -> str:
        """Return the text of one part of the message."""
        content = _content(message)
        if (text := encodings.decode_as(content, _charset(message))) is None:
            try:
                text, self.encoding = encodings.decode(content)
            except ParseFailed:
                text = content.decode("cp1252", "replace")
                self.warnings.append("a part of this e-mail is in an encoding that cannot be detected")
        if message.get_content_subtype() == "html":
            return kreuzberg.text(text.encode("utf-8", "replace"), "html")
        return text.replace("\r\n", "\n").replace("\r", "\n")


def web_archive(content: bytes) -> str:
    """Return the text of a web page that is saved as a MIME message (MHTML)."""
    message: Message = email.message_from_bytes(content, policy=email.policy.compat32)
    page = next((part for part in message.walk() if part.get_content_maintype() == "text"), None)
    return "" if page is None else Mail().part_text(page)


def _read(file: Path) -> Message:
    with file.open("rb") as content:
        message: Message = email.message_from_binary_file(content, policy=email.policy.compat32)
    if sum(1 for _, _ in zip(message.walk(), range(MAX_PARTS + 1), strict=False)) > MAX_PARTS:
        raise ParseFailed(f"this e-mail has more than {MAX_PARTS:,} parts")
    return message


def _header(message: Message, name: str) -> str:
    """Return a decoded header; a header that cannot be decoded stays encoded."""
    value = message.get(name)
    if value is None:
        return ""
    raw = str(value).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    try:
        decoded = str(email.policy.default.header_factory("Subject", " ".join(raw.split())))
    except Exception:  # noqa: BLE001 - the parser of headers raises many kinds of errors
        decoded = raw
    return " ".join(decoded.split())


def _parts(message: Message) -> list[Message]:
    payload = message.get_payload()
    return [part for part in payload if isinstance(part, Message)] if isinstance(payload, list) else []


def _is_attached(message: Message) -> bool:
    filename = message.get_param("filename", header="content-disposition") or message.get_param("name")
    return message.get_content_disposition() == "attachment" or bool(filename)


def _charset(message: Message) -> str:
    try:
        return message.get_content_charset("utf-8")
    except ValueError:  # the charset parameter is itself in an unknown encoding
        return ""


def _content(message: Message) -> bytes:
    payload = message.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


def _attachments(message: Message) -> Iterator[Attachment]:
    if message.get_content_type() == "message/rfc822" or (
        message.get_content_maintype() == "message" and message.is_multipart() and _is_attached(message)
    ):
        for inner in _parts(message):
            yield Attachment(f"{_header(inner, 'Subject') or 'message'}.eml", inner.as_bytes())
    elif message.is_multipart():
        for part in _parts(message):
            yield from _attachments(part)
    elif _is_attached(message):
        extension = EXTENSIONS.get(message.get_content_type(), "bin")
        yield Attachment(_filename(message) or f"attachment.{extension}", _content(message))


def _filename(message: Message) -> str:
    try:
        name = message.get_filename() or ""
    except ValueError:  # the file name is in an unknown encoding
        return ""
    try:
        return " ".join(str(email.policy.default.header_factory("Subject", name)).split())
    except Exception:  # noqa: BLE001 - the parser of headers raises many kinds of errors
        return name


def _outlook_attachments(file: Path) -> Iterator[Attachment]:
    try:
        with olefile.OleFileIO(str(file)) as ole:
            storages = sorted({e[0] for e in ole.listdir() if e[0].startswith("__attach_version1.0_")})
            for storage in storages:
                name = _stream_text(ole, storage, LONG_FILENAME) or _stream_text(ole, storage, SHORT_FILENAME)
                if ole.exists(f"{storage}/{ATTACHMENT_DATA}"):
                    yield Attachment(name or "attachment.bin", ole.openstream(f"{storage}/{ATTACHMENT_DATA}").read())
    except Exception as error:  # olefile raises many kinds of errors for a corrupt file
        raise ParseFailed(f"the attachments of this MSG file cannot be read: {type(error).__name__}") from error


def _stream_text(ole: olefile.OleFileIO, storage: str, tag: str) -> str:
    for string_type, encoding in STRING_ENCODINGS.items():
        if ole.exists(f"{storage}/{tag}{string_type}"):
            content: bytes = ole.openstream(f"{storage}/{tag}{string_type}").read()
            return content.decode(encoding, "replace").strip("\0")
    return ""
