"""Text is read in the encoding that it is in, and the encoding is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drw.rag.documents.adapters.kreuzberg import Kreuzberg
from drw.rag.documents.adapters.mail import Mail
from drw.rag.documents.parsing.encodings import decoded
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
def test_text_is_read_in_its_encoding(encoding: Any, text: Any) -> None:
    assert decoded(text.encode(encoding)) == (text, encoding)


def test_the_encoding_of_a_long_text_is_detected_by_its_few_odd_characters() -> None:
    text = "Plain words of a long report.\n" * 100_000 + "– signed: André\n"
    assert decoded(text.encode("cp1252")) == (text, "cp1252")


@pytest.mark.parametrize("end", ["", "\n"])
def test_megabytes_before_the_first_odd_character_take_time_in_proportion(end: str) -> None:
    """Fails by the time limit of a test where the search for it is quadratic."""
    text = ("a" * 79 + end) * 25_000 + " – signed: André"
    assert decoded(text.encode("cp1252")) == (text, "cp1252")


PAGE = '<html><head><meta charset="{}"></head><body>Café limit</body></html>'
MESSAGE = b'Subject: x\nMIME-Version: 1.0\nContent-Type: text/plain; charset="%b"\n\nCaf\xe9 limit'
ATTACHED = (
    b"Subject: x\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: application/pdf\n"
    b"Content-Disposition: attachment; filename*=%b''na%%EFve.pdf\n\ndata\n--b--\n"
)
NO_ENCODINGS = ("undefined", "punycode", "idna", "rot13", "none-such")


def written(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("name", [*NO_ENCODINGS, "utf-16", "utf-32", "utf-16-le"])
def test_a_page_that_names_an_encoding_it_cannot_be_in_is_read(name: Any, tmp_path: Path) -> None:
    content = PAGE.format(name).encode()
    for page in (content, content + b" " * (len(content) % 2)):
        (text,) = Kreuzberg().pages(written(tmp_path, "a.html", page), "html", LIMITS)
        assert text.strip() == "Café limit"


def test_the_byte_order_mark_of_a_page_comes_before_the_encoding_that_it_names(tmp_path: Path) -> None:
    page = written(tmp_path, "a.html", PAGE.format("iso-8859-1").encode("utf-8-sig"))
    assert [text.strip() for text in Kreuzberg().pages(page, "html", LIMITS)] == ["Café limit"]


@pytest.mark.parametrize("name", [*NO_ENCODINGS, "a\0b"])
def test_mail_that_names_an_encoding_that_there_is_not_is_read(name: Any, tmp_path: Path) -> None:
    (text,) = Mail().pages(written(tmp_path, "a.eml", MESSAGE % name.encode()), "eml", LIMITS)
    assert text == "# x\n\nCafé limit"
    file = written(tmp_path, "b.eml", ATTACHED % name.encode())
    assert [found.content for found in Mail().embedded(file, "eml", LIMITS)] == [b"data"]


def test_a_few_wrong_bytes_do_not_change_the_encoding_of_a_file() -> None:
    text, encoding = decoded("Größe, Höhe, Maß, ".encode() * 40 + b"cut \xc3")
    assert (text.endswith("Maß, cut \ufffd"), encoding) == (True, "utf-8")


def test_line_ends_of_all_kinds_become_one() -> None:
    assert decoded(b"a\r\nb\rc\n\r\nd") == ("a\nb\nc\n\nd", "utf-8")


@pytest.mark.parametrize(
    "content", [b"\x89PNG\r\n\x1a\n\0\0\0", bytes(range(256)) * 4, b"\0\1" * 50, bytes(range(1, 256))]
)
def test_what_is_no_text_is_refused(content: Any) -> None:
    with pytest.raises(ParseFailed, match="this is not text"):
        decoded(content)
