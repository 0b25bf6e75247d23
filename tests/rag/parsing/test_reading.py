"""Parser pool: the text of each file type, limits, and isolation of files that crash or hang their parser."""

from __future__ import annotations

import asyncio
import os
import signal
import zipfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from drw.demo import DOCUMENTS
from drw.demo.docx import docx
from drw.demo.pdf import pdf
from drw.rag.documents.parsing import file_types
from drw.rag.documents.parsing.parser_pool import ParserPool
from drw.rag.documents.ports import ParseFailed
from drw.rag.documents.settings import ParsingSettings
from drw.rag.documents.settings import ParsingSettings as Settings
from rag.documents.test_attachments import mail
from rag.ooxml import rows, workbook

ENCRYPTION = b"/Encrypt << /Filter /Standard /V 1 /R 2 /P -44 /O (%b) /U (%b) >> /ID [(0) (0)] " % (
    b"o" * 32,
    b"u" * 32,
)


@pytest.fixture
async def pool() -> AsyncIterator[ParserPool]:
    async with parser_pool(Settings(workers=1)) as pool:
        yield pool


@asynccontextmanager
async def parser_pool(settings: ParsingSettings) -> AsyncIterator[ParserPool]:
    pool = ParserPool(settings)
    try:
        yield pool
    finally:
        await pool.stop()


async def read(pool: ParserPool, tmp_path: Path, name: str, content: bytes) -> list[str]:
    file = tmp_path / name
    file.write_bytes(content)
    return (await pool.text(file, file_types.extension_of(name))).pages


@pytest.mark.parametrize(
    ("name", "text"),
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
async def test_every_demo_document_is_parsed(pool: ParserPool, name: str, text: str) -> None:
    pages = (await pool.text(DOCUMENTS / name, file_types.extension_of(name))).pages
    assert text in "\n".join(pages)
    assert "console.log" not in "\n".join(pages)


async def test_the_demo_has_no_other_documents(pool: ParserPool) -> None:
    assert len(list(DOCUMENTS.iterdir())) == 7


async def test_a_long_pdf_is_parsed_page_by_page_within_the_memory_limit(tmp_path: Path) -> None:
    async with parser_pool(Settings(workers=1, memory_mebibytes=300)) as pool:
        pages = await read(pool, tmp_path, "long.pdf", pdf([[f"Page {n} of many"] for n in range(2000)]))
    assert (len(pages), pages[1999]) == (2000, "Page 1999 of many")


BOMB_ERROR = "this file unpacks to more than 1,048,576 bytes"
INVALID_FILES = [
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
def low_limits() -> ParsingSettings:
    return Settings(workers=1, max_pages=30, max_characters=10_000, max_unpacked_bytes=1 << 20)


@pytest.mark.parametrize(("name", "content", "reason"), INVALID_FILES, ids=[name for name, *_ in INVALID_FILES])
async def test_an_invalid_file_is_rejected_with_a_reason(
    low_limits: ParsingSettings, tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    async with parser_pool(low_limits) as pool:
        with pytest.raises(ParseFailed, match=reason) as rejected:
            await read(pool, tmp_path, name, content)
    assert rejected.value.code == "invalid_file"


async def test_an_encrypted_pdf_requires_a_password(pool: ParserPool, tmp_path: Path) -> None:
    with pytest.raises(ParseFailed, match="this PDF is encrypted: give its password") as rejected:
        await read(pool, tmp_path, "a.pdf", pdf([["a"]]).replace(b"/Root", ENCRYPTION + b"/Root"))
    assert rejected.value.code == "password_required"


async def test_a_decompression_bomb_is_rejected_regardless_of_its_declared_size(
    low_limits: ParsingSettings, tmp_path: Path
) -> None:
    file = tmp_path / "bomb.docx"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"\0" * (8 << 20))
    async with parser_pool(low_limits) as pool:
        with pytest.raises(ParseFailed, match=BOMB_ERROR):
            await pool.check(file, "docx")


async def test_a_parser_that_crashes_affects_only_its_file(pool: ParserPool, tmp_path: Path) -> None:
    file = tmp_path / "a.pdf"
    os.mkfifo(file)  # opening a FIFO blocks until there is a writer: the parser hangs
    hanging = asyncio.create_task(pool.text(file, "pdf"))
    writer = await _open_for_writing(file)
    os.kill(_workers()[0].pid, signal.SIGKILL)
    with pytest.raises(
        ParseFailed, match="breaks its parser, or takes more than 1536 MiB and 20 seconds of processor time"
    ):
        await hanging
    os.close(writer)
    assert await read(pool, tmp_path, "b.txt", b"fine") == ["fine"]


async def _open_for_writing(fifo: Path) -> int:
    """Open a FIFO for writing once a parser has opened it for reading: the parser then waits for content."""
    while True:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            await asyncio.sleep(0.01)


async def test_a_parser_that_hangs_is_killed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pdf")
    async with parser_pool(Settings(workers=1, seconds=1)) as pool:
        with pytest.raises(ParseFailed, match="takes more than 1 seconds"):
            await pool.text(tmp_path / "a.pdf", "pdf")
        assert _workers() == []


async def test_a_file_that_exceeds_the_memory_limit_is_rejected(tmp_path: Path) -> None:
    async with parser_pool(Settings(workers=1, memory_mebibytes=120)) as pool:
        with pytest.raises(ParseFailed, match="memory|breaks its parser"):
            await read(pool, tmp_path, "a.txt", b"a" * (60 << 20))


async def test_a_parser_process_is_reused_and_sees_no_secrets(
    pool: ParserPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRW__SECRET", "hush")
    await read(pool, tmp_path, "a.txt", b"one")
    (first,) = _workers()
    await read(pool, tmp_path, "b.txt", b"two")
    with pytest.raises(ParseFailed):
        await read(pool, tmp_path, "c.pdf", b"no")
    assert _workers() == [first]
    assert "hush" not in first.environ().values()
    await pool.stop()
    assert _workers() == []


async def test_closing_the_attachments_early_releases_the_slot_and_the_worker(pool: ParserPool, tmp_path: Path) -> None:
    file = tmp_path / "a.eml"
    file.write_bytes(mail("m", ("a.txt", b"a" * (8 << 20))).as_bytes())
    responses = pool.attachments(file, "eml")
    assert await anext(responses) == ("a.txt", 8 << 20)
    await responses.aclose()
    assert (_workers(), pool._upload_slots._free) == ([], 1)


async def test_a_warning_with_a_long_name_is_truncated(pool: ParserPool, tmp_path: Path) -> None:
    book = workbook({"Shown": rows(["text"]), "S" * 100_000: rows(["x"])}, states={"S" * 100_000: "hidden"})
    file = tmp_path / "a.xlsx"
    file.write_bytes(book)
    (warning,) = (await pool.text(file, "xlsx")).warnings
    assert warning.startswith("the sheet 'SSS")
    assert len(warning) == 500


async def test_page_text_is_normalised(pool: ParserPool, tmp_path: Path) -> None:
    assert await read(pool, tmp_path, "a.txt", b"a" + b" " * 99 + b"b\r\nc" + b"\n" * 50 + b"d\fe") == [
        "a        b\nc\n\n\nd",
        "e",
    ]
    assert await read(pool, tmp_path, "b.txt", "\ufeffé".encode("utf-16-le")) == ["é"]
    assert [len(page) for page in await read(pool, tmp_path, "c.txt", b"x" * 250_000)] == [100_000, 100_000, 50_000]


def _workers() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "drw.rag.documents.parsing.parser_process" in p.cmdline()]


async def test_a_parser_process_that_exits_before_its_first_request_is_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("text")
    pool = ParserPool(Settings())
    killed: list[Process] = []
    start = pool._start

    async def exit_first() -> Process:
        worker = await start()
        if not killed:
            killed.append(worker)
            worker.kill()
            await worker.wait()
        return worker

    monkeypatch.setattr(pool, "_start", exit_first)
    assert (await pool.text(file, "txt")).pages == ["text"]
    assert len(killed) == 1
    await pool.stop()
