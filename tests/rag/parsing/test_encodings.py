"""Character encoding detection of text, web pages and mail."""

from __future__ import annotations

from pathlib import Path

import pytest

from drw.rag.documents.adapters.kreuzberg import Kreuzberg
from drw.rag.documents.adapters.mail import Mail
from drw.rag.documents.parsing.encodings import decode
from drw.rag.documents.ports import ParseFailed, ParserLimits

LIMITS = ParserLimits(pages=100, characters=10_000_000, unpacked_bytes=64 << 20)

CYRILLIC = "Лимит по металлам: 12,5 млн долларов"
TEXTS = [
    ("cp1252", "Margin limit – «Base metals»: £1,500,000 for the café desk"),
    ("cp1252", "Überschuß für März: 12,5 %"),
    ("cp1250", "Zażółć gęślą jaźń, kwota 12,5 mln zł"),
    ("cp850", "Rapport: marché fermé, coût élevé à Genève"),
    ("cp1251", CYRILLIC),
    ("cp866", CYRILLIC),
    ("koi8-r", "Сегодня рынок закрылся ростом, объём торгов составил 5 млрд"),
    ("shift_jis", "限度額は金属で1250万ドルです。"),
    ("gb18030", "金属限额为1250万美元。"),
    ("euc-kr", "위험 보고서: 오늘 시장은 상승 마감했다"),
    *((name, CYRILLIC) for name in ("utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")),
    *((name, "Settlement 9,841.50\n") for name in ("utf-16-le", "utf-16-be", "utf-32-be")),
]


@pytest.mark.parametrize(("encoding", "text"), TEXTS)
def test_text_is_decoded_in_its_encoding(encoding: str, text: str) -> None:
    assert decode(text.encode(encoding)) == (text, encoding)


def test_the_encoding_of_a_long_text_with_few_non_ascii_characters_is_detected() -> None:
    text = "Plain words of a long report.\n" * 100_000 + "– signed: André\n"
    assert decode(text.encode("cp1252")) == (text, "cp1252")


@pytest.mark.parametrize("end", ["", "\n"])
def test_detection_takes_linear_time_before_the_first_non_ascii_character(end: str) -> None:
    """A quadratic search exceeds the time limit of the test."""
    text = ("a" * 79 + end) * 25_000 + " – signed: André"
    assert decode(text.encode("cp1252")) == (text, "cp1252")


PAGE = '<html><head><meta charset="{}"></head><body>Café limit</body></html>'
MESSAGE = b'Subject: x\nMIME-Version: 1.0\nContent-Type: text/plain; charset="%b"\n\nCaf\xe9 limit'
ATTACHED = (
    b"Subject: x\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: application/pdf\n"
    b"Content-Disposition: attachment; filename*=%b''na%%EFve.pdf\n\ndata\n--b--\n"
)
UNKNOWN_ENCODINGS = ("undefined", "punycode", "idna", "rot13", "none-such")


def write_file(tmp_path: Path, name: str, content: bytes) -> Path:
    file = tmp_path / name
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("name", [*UNKNOWN_ENCODINGS, "utf-16", "utf-32", "utf-16-le"])
def test_a_page_that_declares_an_impossible_encoding_is_read(name: str, tmp_path: Path) -> None:
    content = PAGE.format(name).encode()
    for page in (content, content + b" " * (len(content) % 2)):
        (text,) = Kreuzberg().pages(write_file(tmp_path, "a.html", page), "html", LIMITS)
        assert text.strip() == "Café limit"


def test_the_byte_order_mark_of_a_page_takes_precedence_over_its_declared_encoding(tmp_path: Path) -> None:
    page = write_file(tmp_path, "a.html", PAGE.format("iso-8859-1").encode("utf-8-sig"))
    assert [text.strip() for text in Kreuzberg().pages(page, "html", LIMITS)] == ["Café limit"]


@pytest.mark.parametrize("name", [*UNKNOWN_ENCODINGS, "a\0b"])
def test_mail_that_declares_an_unknown_encoding_is_read(name: str, tmp_path: Path) -> None:
    (text,) = Mail().pages(write_file(tmp_path, "a.eml", MESSAGE % name.encode()), "eml", LIMITS)
    assert text == "# x\n\nCafé limit"
    file = write_file(tmp_path, "b.eml", ATTACHED % name.encode())
    assert [attachment.content for attachment in Mail().attachments(file, "eml", LIMITS)] == [b"data"]


def test_a_few_invalid_bytes_do_not_change_the_detected_encoding() -> None:
    text, encoding = decode("Größe, Höhe, Maß, ".encode() * 40 + b"cut \xc3")
    assert (text.endswith("Maß, cut \ufffd"), encoding) == (True, "utf-8")


def test_all_line_ends_become_line_feeds() -> None:
    assert decode(b"a\r\nb\rc\n\r\nd") == ("a\nb\nc\n\nd", "utf-8")


@pytest.mark.parametrize(
    "content", [b"\x89PNG\r\n\x1a\n\0\0\0", bytes(range(256)) * 4, b"\0\1" * 50, bytes(range(1, 256))]
)
def test_binary_content_is_rejected(content: bytes) -> None:
    with pytest.raises(ParseFailed, match="this is not text"):
        decode(content)
