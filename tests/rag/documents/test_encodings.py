"""Text is read in the encoding that it is in, and the encoding is named."""

from __future__ import annotations

import pytest

from drw.rag.documents.encodings import decoded
from drw.rag.documents.ports import Refused

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
def test_text_is_read_in_its_encoding(encoding, text):
    assert decoded(text.encode(encoding)) == (text, encoding)


def test_a_long_text_is_told_by_its_few_odd_characters():
    text = "Plain words of a long report.\n" * 100_000 + "– signed: André\n"
    assert decoded(text.encode("cp1252")) == (text, "cp1252")


def test_a_few_wrong_bytes_do_not_change_the_encoding_of_a_file():
    text, encoding = decoded("Größe, Höhe, Maß, ".encode() * 40 + b"cut \xc3")
    assert (text.endswith("Maß, cut \ufffd"), encoding) == (True, "utf-8")


def test_line_ends_of_all_kinds_become_one():
    assert decoded(b"a\r\nb\rc\n\r\nd") == ("a\nb\nc\n\nd", "utf-8")


@pytest.mark.parametrize(
    "content", [b"\x89PNG\r\n\x1a\n\0\0\0", bytes(range(256)) * 4, b"\0\1" * 50, bytes(range(1, 256))]
)
def test_what_is_no_text_is_refused(content):
    with pytest.raises(Refused, match="this is not text"):
        decoded(content)
