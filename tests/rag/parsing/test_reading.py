"""What each kind of file gives, and what a hostile one cannot do."""

from __future__ import annotations

import asyncio
import os
import signal
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from drw.demo import DOCUMENTS
from drw.demo.docx import docx
from drw.demo.pdf import pdf
from drw.rag.documents.parsing import file_types
from drw.rag.documents.parsing.parser_pool import ParserPool
from drw.rag.documents.ports import ParseFailed
from drw.rag.documents.settings import ParsingSettings as Settings
from rag.documents.test_embedded import mail
from support.ooxml import rows, workbook

PASSWORD = b"/Encrypt << /Filter /Standard /V 1 /R 2 /P -44 /O (%b) /U (%b) >> /ID [(0) (0)] " % (b"o" * 32, b"u" * 32)


@pytest.fixture
async def reader() -> AsyncIterator[ParserPool]:
    async with reading(Settings(workers=1)) as reader:
        yield reader


@asynccontextmanager
async def reading(settings):
    reader = ParserPool(settings)
    try:
        yield reader
    finally:
        await reader.stop()


async def read(reader, tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content)
    return await reader.pages(file, file_types.kind_of(name))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("risk-policy.md", "| Rates | 3.5 | 18 | Head of rates |"),
        ("incident-2026-02-11.md", "The exchange's fine for stale quotes was EUR 12,500."),
        ("options-desk-handover.txt", "VaR stood at 6.8 against a limit of 6.0."),
        ("weekly-risk-report.html", "| -4.7 "),
        ("model-register.csv", "| Quote skew | Market making | 11.4 |"),
        ("onboarding-guide.docx", "at most USD 250,000 of delta"),
        ("quarterly-report-2025-q4.pdf", "Total net trading revenue 61.4 56.3"),
    ],
)
async def test_every_document_of_the_demo_can_be_read(reader: ParserPool, name: str, words: str) -> None:
    pages = await reader.pages(DOCUMENTS / name, file_types.kind_of(name))
    assert words in "\n".join(pages)
    assert "console.log" not in "\n".join(pages)


async def test_the_demo_has_no_document_that_is_not_read_above(reader: ParserPool) -> None:
    assert len(list(DOCUMENTS.iterdir())) == 7


async def test_a_long_pdf_is_read_page_by_page_within_its_memory(tmp_path: Path) -> None:
    async with reading(Settings(workers=1, memory_mebibytes=300)) as reader:
        pages = await read(reader, tmp_path, "long.pdf", pdf([[f"Page {n} of many"] for n in range(2000)]))
    assert (len(pages), pages[1999]) == (2000, "Page 1999 of many")


BOMB = "this file unpacks to more than 1,048,576 bytes"
HOSTILE = [
    ("no.pdf", b"hello", "this is not a PDF"),
    ("broken.pdf", b"%PDF-1.7\nnothing", "this PDF is damaged"),
    ("cut.pdf", pdf([["a"]] * 30)[:900], "this PDF is damaged"),
    ("long.pdf", pdf([["a"]] * 31), "this PDF has 31 pages; at most 30"),
    ("no.docx", b"hello", "this is not a DOCX file"),
    ("old.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"0" * 600, "of an Office before 2007"),
    ("cut.docx", docx(["text"])[:-30], "cannot be unpacked"),
    ("image.txt", b"\x89PNG\0\0\0", "zero bytes"),
    ("noise.md", bytes(range(1, 256)), "not text in UTF-8: byte 127 is wrong; its encoding cannot be detected"),
    ("long.txt", b"a" * 10_001, "more than 10,000 characters"),
]


@pytest.fixture(scope="module")
def bounded():
    return Settings(workers=1, max_pages=30, max_characters=10_000, max_unpacked_bytes=1 << 20)


@pytest.mark.parametrize(("name", "content", "reason"), HOSTILE, ids=[name for name, *_ in HOSTILE])
async def test_a_file_that_cannot_be_read_is_refused_with_its_reason(
    bounded: Any, tmp_path: Path, name: Any, content: Any, reason: Any
) -> None:
    async with reading(bounded) as reader:
        with pytest.raises(ParseFailed, match=reason) as refused:
            await read(reader, tmp_path, name, content)
    assert refused.value.code == "invalid_file"


async def test_an_encrypted_pdf_asks_for_its_password(reader: ParserPool, tmp_path: Path) -> None:
    with pytest.raises(ParseFailed, match="this PDF is encrypted: give its password") as refused:
        await read(reader, tmp_path, "a.pdf", pdf([["a"]]).replace(b"/Root", PASSWORD + b"/Root"))
    assert refused.value.code == "password_required"


async def test_a_decompression_bomb_is_rejected_whatever_sizes_it_declares(bounded: Any, tmp_path: Path) -> None:
    file = tmp_path / "bomb.docx"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("word/document.xml", b"\0" * (8 << 20))
    async with reading(bounded) as reader:
        with pytest.raises(ParseFailed, match=BOMB):
            await reader.check(file, "docx")


async def test_a_parser_that_crashes_affects_only_its_file(reader: ParserPool, tmp_path: Path) -> None:
    file = tmp_path / "a.pdf"
    os.mkfifo(file)  # opening it waits for a writer, as a parser that hangs does
    hanging = asyncio.create_task(reader.pages(file, "pdf"))
    writer = await _opened_for_reader(file)
    os.kill(_workers()[0].pid, signal.SIGKILL)
    with pytest.raises(
        ParseFailed, match="breaks its parser, or takes more than 1536 MiB and 20 seconds of processor time"
    ):
        await hanging
    os.close(writer)
    assert await read(reader, tmp_path, "b.txt", b"fine") == ["fine"]


async def _opened_for_reader(fifo):
    """Open a pipe for writing once somebody reads it: the parser is then in the middle of its file."""
    while True:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            await asyncio.sleep(0.01)


async def test_a_parser_that_hangs_is_ended(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pdf")
    async with reading(Settings(workers=1, seconds=1)) as reader:
        with pytest.raises(ParseFailed, match="takes more than 1 seconds"):
            await reader.pages(tmp_path / "a.pdf", "pdf")
        assert _workers() == []


async def test_a_parser_that_takes_too_much_memory_is_refused_or_dies(tmp_path: Path) -> None:
    async with reading(Settings(workers=1, memory_mebibytes=120)) as reader:
        with pytest.raises(ParseFailed, match="memory|breaks its parser"):
            await read(reader, tmp_path, "a.txt", b"a" * (60 << 20))


async def test_a_parser_process_is_reused_and_sees_no_secrets(
    reader: ParserPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRW__SECRET", "hush")
    await read(reader, tmp_path, "a.txt", b"one")
    (first,) = _workers()
    await read(reader, tmp_path, "b.txt", b"two")
    with pytest.raises(ParseFailed):
        await read(reader, tmp_path, "c.pdf", b"no")
    assert _workers() == [first]
    assert "hush" not in first.environ().values()
    await reader.stop()
    assert _workers() == []


async def test_who_stops_taking_attached_files_gives_the_worker_free_at_once(
    reader: ParserPool, tmp_path: Path
) -> None:
    file = tmp_path / "a.eml"
    file.write_bytes(mail("m", ("a.txt", b"a" * (8 << 20))).as_bytes())
    answers = reader.embedded(file, "eml")
    assert await anext(answers) == ("a.txt", 8 << 20)
    await answers.aclose()
    assert (_workers(), reader._receiving._free) == ([], 1)


async def test_a_name_that_a_file_gives_makes_no_long_warning(reader: ParserPool, tmp_path: Path) -> None:
    book = workbook({"Shown": rows(["text"]), "S" * 100_000: rows(["x"])}, states={"S" * 100_000: "hidden"})
    file = tmp_path / "a.xlsx"
    file.write_bytes(book)
    (warning,) = (await reader.text(file, "xlsx")).warnings
    assert warning.startswith("the sheet 'SSS")
    assert len(warning) == 500


async def test_text_is_tidied(reader: ParserPool, tmp_path: Path) -> None:
    assert await read(reader, tmp_path, "a.txt", b"a" + b" " * 99 + b"b\r\nc" + b"\n" * 50 + b"d\fe") == [
        "a        b\nc\n\n\nd",
        "e",
    ]
    assert await read(reader, tmp_path, "b.txt", "\ufeffé".encode("utf-16-le")) == ["é"]
    assert [len(page) for page in await read(reader, tmp_path, "c.txt", b"x" * 250_000)] == [100_000, 100_000, 50_000]


def _workers():
    return [p for p in psutil.Process().children() if "drw.rag.documents.parsing.parser_process" in p.cmdline()]


async def test_a_parser_process_that_ends_before_its_first_request_is_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("text")
    reader = ParserPool(Settings())
    ended: list[Any] = []
    start = reader._start

    async def ends_first():
        worker = await start()
        if not ended:
            ended.append(worker)
            worker.kill()
            await worker.wait()
        return worker

    monkeypatch.setattr(reader, "_start", ends_first)
    assert await reader.pages(file, "txt") == ["text"]
    assert len(ended) == 1
    await reader.stop()
