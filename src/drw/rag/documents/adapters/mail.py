"""Parser of e-mail: EML with Python's `email`, Outlook's MSG with Kreuzberg; attachments become embedded files."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import olefile

from drw.rag.documents.adapters import kreuzberg
from drw.rag.documents.parsing import encodings
from drw.rag.documents.parsing.ooxml.encryption import OLE
from drw.rag.documents.parsing.pages import parted
from drw.rag.documents.ports import Embedded, ParseFailed, Parser, ParserLimits

HEADERS = ("Subject", "From", "To", "Cc", "Date")
ENDINGS = {"text/plain": "txt", "text/html": "html", "text/csv": "csv", "application/pdf": "pdf"}
MAX_PARTS = 2000
# Property tags of MS-OXPROPS, in the names of MSG's streams.
LONG_NAME = "__substg1.0_3707"
SHORT_NAME = "__substg1.0_3704"
DATA = "__substg1.0_37010102"
TEXTS = {"001F": "utf-16-le", "001E": "cp1252"}


class Mail(Parser):
    """The visible headers, then the body: plain text if the e-mail has both plain text and HTML."""

    kinds = frozenset({"eml", "msg"})

    def check(self, file: Path, kind: str, limits: ParserLimits) -> None:
        if file.stat().st_size > limits.unpacked_bytes:
            raise ParseFailed(f"this file has {file.stat().st_size:,} bytes; mail may have {limits.unpacked_bytes:,}")
        with file.open("rb") as content:
            begin = content.read(4096)
        if kind == "msg" and not begin.startswith(OLE):
            raise ParseFailed("this is not a MSG file, although its name ends in .msg")
        if kind == "eml" and b":" not in begin:
            raise ParseFailed("this is not an e-mail: it has no headers")

    def pages(self, file: Path, kind: str, limits: ParserLimits) -> Iterator[str]:
        self.check(file, kind, limits)
        if kind == "msg":
            return parted([kreuzberg.text(file.read_bytes(), kind)])
        return parted(["\n\n".join(self._texts(_read(file)))])

    def embedded(self, file: Path, kind: str, limits: ParserLimits) -> Iterator[Embedded]:
        self.check(file, kind, limits)
        yield from _of_outlook(file) if kind == "msg" else _attachments(_read(file))

    def _texts(self, message: Message) -> Iterator[str]:
        if subject := _header(message, "Subject"):
            yield f"# {subject}"
        headers = [f"{name}: {text}" for name in HEADERS[1:] if (text := _header(message, name))]
        if headers:
            yield "\n".join(headers)
        yield from self._bodies(message)
        if names := [item.name for item in _attachments(message)]:
            yield f"Attachments: {', '.join(names)}"

    def _bodies(self, message: Message) -> Iterator[str]:
        """Yield the texts to be read; of alternatives the last that has any, but plain text before HTML."""
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
            yield self.text(message)

    def text(self, message: Message) -> str:
        """Return the text of one part."""
        content = _content(message)
        if (text := encodings.decoded_as(content, _charset(message))) is None:
            try:
                text, self.encoding = encodings.decoded(content)
            except ParseFailed:
                text = content.decode("cp1252", "replace")
                self.warnings.append("a part of this e-mail is in an encoding that cannot be detected")
        if message.get_content_subtype() == "html":
            return kreuzberg.text(text.encode("utf-8", "replace"), "html")
        return text.replace("\r\n", "\n").replace("\r", "\n")


def web_archive(content: bytes) -> str:
    """Return the text of a web page that is saved as a message (MHTML)."""
    message: Message = email.message_from_bytes(content, policy=email.policy.compat32)
    page = next((part for part in message.walk() if part.get_content_maintype() == "text"), None)
    return "" if page is None else Mail().text(page)


def _read(file: Path) -> Message:
    with file.open("rb") as content:
        message: Message = email.message_from_binary_file(content, policy=email.policy.compat32)
    if sum(1 for _, _ in zip(message.walk(), range(MAX_PARTS + 1), strict=False)) > MAX_PARTS:
        raise ParseFailed(f"this e-mail has more than {MAX_PARTS:,} parts")
    return message


def _header(message: Message, name: str) -> str:
    """Return a decoded header; parts that cannot be decoded stay encoded."""
    value = message.get(name)
    if value is None:
        return ""
    raw = str(value).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    try:
        shown = str(email.policy.default.header_factory("Subject", " ".join(raw.split())))
    except Exception:  # noqa: BLE001 - its parser raises whatever it meets in a broken header
        shown = raw
    return " ".join(shown.split())


def _parts(message: Message) -> list[Message]:
    payload = message.get_payload()
    return [part for part in payload if isinstance(part, Message)] if isinstance(payload, list) else []


def _is_attached(message: Message) -> bool:
    named = message.get_param("filename", header="content-disposition") or message.get_param("name")
    return message.get_content_disposition() == "attachment" or bool(named)


def _charset(message: Message) -> str:
    try:
        return message.get_content_charset("utf-8")
    except ValueError:  # the name of the encoding is itself in one, which is none
        return ""


def _content(message: Message) -> bytes:
    payload = message.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


def _attachments(message: Message) -> Iterator[Embedded]:
    if message.get_content_type() == "message/rfc822" or (
        message.get_content_maintype() == "message" and message.is_multipart() and _is_attached(message)
    ):
        for inner in _parts(message):
            yield Embedded(f"{_header(inner, 'Subject') or 'message'}.eml", inner.as_bytes())
    elif message.is_multipart():
        for part in _parts(message):
            yield from _attachments(part)
    elif _is_attached(message):
        ending = ENDINGS.get(message.get_content_type(), "bin")
        yield Embedded(_filename(message) or f"attachment.{ending}", _content(message))


def _filename(message: Message) -> str:
    try:
        name = message.get_filename() or ""
    except ValueError:  # it is in an encoding that cannot be one
        return ""
    try:
        return " ".join(str(email.policy.default.header_factory("Subject", name)).split())
    except Exception:  # noqa: BLE001 - its parser raises whatever it meets in a broken header
        return name


def _of_outlook(file: Path) -> Iterator[Embedded]:
    try:
        with olefile.OleFileIO(str(file)) as ole:
            folders = sorted({e[0] for e in ole.listdir() if e[0].startswith("__attach_version1.0_")})
            for folder in folders:
                name = _stream_text(ole, folder, LONG_NAME) or _stream_text(ole, folder, SHORT_NAME)
                if ole.exists(f"{folder}/{DATA}"):
                    yield Embedded(name or "attachment.bin", ole.openstream(f"{folder}/{DATA}").read())
    except Exception as error:
        raise ParseFailed(f"the attachments of this MSG file cannot be read: {type(error).__name__}") from error


def _stream_text(ole: olefile.OleFileIO, folder: str, tag: str) -> str:
    for kind, encoding in TEXTS.items():
        if ole.exists(f"{folder}/{tag}{kind}"):
            content: bytes = ole.openstream(f"{folder}/{tag}{kind}").read()
            return content.decode(encoding, "replace").strip("\0")
    return ""
