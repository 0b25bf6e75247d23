"""Attachments are separate files that are deleted with their parent; passwords of encrypted files are not stored."""

from __future__ import annotations

import ctypes
import io
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from email.message import EmailMessage
from pathlib import Path
from typing import cast

import openai
import psycopg
import pypdfium2
import pypdfium2.raw as pdfium
import pytest

from drw.demo.pdf import pdf
from drw.kernel.runtime.settings import Profile
from drw.rag.documents.parsing.parser_pool import ParserPool
from drw.rag.documents.ports import ParseFailed
from rag.documents.desks import Desk, Platform, StoredFile, error_body
from rag.ooxml import rows, workbook
from rag.samples import sample

WORKBOOK = workbook({"Limits": rows(["Desk", "Limit"], ["Metals", 4.5])})
PASSWORD = "user_password"


def mail(subject: str, *attached: tuple[str, bytes | EmailMessage], text: str = "See the annex.") -> EmailMessage:
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = subject, "risk@example.com", "desk@example.com"
    message.set_content(text)
    for name, content in attached:
        if isinstance(content, EmailMessage):
            message.add_attachment(content)
        else:
            message.add_attachment(content, maintype="application", subtype="octet-stream", filename=name)
    return message


def pdf_with_attachments(
    pages: list[list[str]], embedded_files: list[tuple[str, bytes]], annotation_files: list[tuple[str, bytes]]
) -> bytes:
    document = pypdfium2.PdfDocument(pdf(pages))
    for name, content in embedded_files:
        document.new_attachment(name).set_data(content)
    page = document[0]
    for name, content in annotation_files:
        annotation = pdfium.FPDFPage_CreateAnnot(page, pdfium.FPDF_ANNOT_FILEATTACHMENT)
        wide = (name + "\0").encode("utf-16-le")
        buffer = ctypes.create_string_buffer(wide)
        file = pdfium.FPDFAnnot_AddFileAttachment(annotation, ctypes.cast(buffer, ctypes.POINTER(pdfium.FPDF_WCHAR)))
        assert pdfium.FPDFAttachment_SetFile(file, document, content, len(content))
        pdfium.FPDFPage_CloseAnnot(annotation)
    page.close()
    output = io.BytesIO()
    document.save(output)
    document.close()
    return output.getvalue()


async def files_of(desk: Desk) -> list[StoredFile]:
    return [cast(StoredFile, f) async for f in desk.openai.files.list(order="asc")]


async def files_by_name(desk: Desk) -> dict[str, StoredFile]:
    return {f.filename: f for f in await files_of(desk)}


async def test_attachments_of_a_mail_are_indexed_and_deleted_with_it(platform: Platform, rag: Profile) -> None:
    desk = platform.desk()
    inner = mail("Inner", ("terms.txt", b"Haircut 12 percent on copper warrants"), text="Forwarded.")
    message = mail("Limits", ("limits.xlsx", WORKBOOK), ("../x/logo.png", b"\x89PNG"), ("fwd", inner))
    parent = await desk.upload("memo.eml", message.as_bytes())
    files = await files_by_name(desk)
    assert list(files) == ["memo.eml", "limits.xlsx", "Inner.eml", "terms.txt"]
    assert files["limits.xlsx"].parent_id == files["Inner.eml"].parent_id == parent.id
    assert (files["terms.txt"].parent_id, parent.parent_id) == (files["Inner.eml"].id, None)
    assert files["terms.txt"].encoding == "utf-8"
    (warning,) = parent.warnings
    assert warning.startswith("the attached file '../x/logo.png' was not stored: '.png' files are images")
    assert (await desk.upload("memo.eml", message.as_bytes())).id == parent.id
    assert len(await files_by_name(desk)) == 4

    stores = desk.openai.vector_stores
    store = await stores.create(name="mail")
    await stores.files.create_and_poll(
        parent.id, vector_store_id=store.id, attributes={"year": 2025}, poll_interval_ms=50
    )
    for file in files.values():
        attached = await stores.files.poll(file.id, vector_store_id=store.id, poll_interval_ms=50)
        assert (attached.status, attached.attributes) == ("completed", {"year": 2025})
    documents = (await desk.http.get(f"/../api/v1/collections/{store.id}/documents")).json()["documents"]
    titles = {d["title"] for d in documents}
    assert {"limits.xlsx, attached to memo.eml", "terms.txt, attached to Inner.eml", "memo.eml"} < titles

    await stores.files.delete(parent.id, vector_store_id=store.id)
    assert (await stores.retrieve(store.id)).file_counts.total == 0
    await desk.openai.files.delete(parent.id)
    assert await files_by_name(desk) == {}
    assert [path for path in (rag.data / "documents").rglob("*") if path.is_file()] == []


async def test_the_same_attachment_of_two_mails_is_stored_for_each(platform: Platform) -> None:
    desk = platform.desk()
    terms = ("terms.txt", b"The same terms")
    first, second = [await desk.upload(f"{n}.eml", mail(n, terms).as_bytes()) for n in ("one", "two")]
    uploaded = await desk.upload(*terms)
    files = [f for f in await files_of(desk) if f.filename == "terms.txt"]
    assert {f.parent_id for f in files} == {first.id, second.id, None}
    await desk.openai.files.delete(first.id)
    assert {f.parent_id for f in await files_of(desk) if f.filename == "terms.txt"} == {second.id, None}
    assert (await desk.openai.files.content(uploaded.id)).content == b"The same terms"


async def test_embedded_files_and_annotation_files_of_a_pdf_are_stored(platform: Platform) -> None:
    desk = platform.desk()
    content = pdf_with_attachments([["Report"]], [("annex.xlsx", WORKBOOK)], [("note.txt", b"On page one")])
    parent = await desk.upload("report.pdf", content)
    files = await files_by_name(desk)
    assert {name: f.parent_id for name, f in files.items()} == {
        **{"report.pdf": None},
        **{"annex.xlsx": parent.id, "note.txt": parent.id},
    }
    assert (await desk.openai.files.content(files["note.txt"].id)).content == b"On page one"


async def test_the_title_of_an_attachment_with_long_names_is_truncated(
    platform: Platform,
) -> None:
    desk = platform.desk()
    message = mail("long", ("a" * 251 + ".txt", b"Copper terms"), ("b" * 100_000, b"x"))
    parent = await desk.upload("m" * 251 + ".eml", message.as_bytes())
    assert max(map(len, parent.warnings)) < 500
    (child,) = [f for f in await files_of(desk) if f.parent_id]
    store = await desk.openai.vector_stores.create(name="s", file_ids=[parent.id])
    attached = await desk.openai.vector_stores.files.poll(child.id, vector_store_id=store.id, poll_interval_ms=50)
    assert attached.status == "completed", attached.last_error


async def test_a_partly_received_attachment_is_not_stored_if_the_parser_fails(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, attachments = platform.desk(), ParserPool.attachments

    async def fail_midway(self: ParserPool, file: Path, kind: str) -> AsyncIterator[bytes | tuple[str, int]]:
        responses = attachments(self, file, kind)
        for _ in range(4):
            yield await anext(responses)
        await responses.aclose()
        raise ParseFailed("this file cannot be read: it breaks its parser")

    monkeypatch.setattr(ParserPool, "attachments", fail_midway)
    message = mail("m", ("whole.txt", b"whole"), ("part.txt", b"a" * (3 << 20)))
    parent = await desk.upload("m.eml", message.as_bytes())
    assert set(await files_by_name(desk)) == {"m.eml", "whole.txt"}
    assert parent.warnings == [
        "the attached file 'm.eml' was not stored: its attached files cannot be read: "
        "this file cannot be read: it breaks its parser",
        "the attached file 'part.txt' was not stored: it could not be read to its end",
    ]


async def test_attachments_are_not_visible_to_other_desks(platform: Platform) -> None:
    research, rates = platform.desk("research"), platform.desk("rates")
    await research.upload("a.eml", mail("a", ("b.txt", b"inside")).as_bytes())
    (child,) = [f for f in await files_of(research) if f.parent_id]
    assert await files_by_name(rates) == {}
    with pytest.raises(openai.NotFoundError):
        await rates.openai.files.retrieve(child.id)


async def test_attachments_are_limited_in_count_bytes_and_depth(
    low_limits: AbstractAsyncContextManager[Platform],
) -> None:
    many = mail("many", *((f"{n}.txt", b"text %d" % n) for n in range(5)))
    large = mail("large", ("a.txt", b"a" * 4000), ("b.txt", b"b" * 4000))
    deep = mail("1", ("", mail("2", ("", mail("3", ("", mail("4")))))))
    async with low_limits as platform:
        desk = platform.desk()
        for message, names, reason in [
            (many, {"0.txt", "1.txt", "2.txt"}, "too many attached files"),
            (large, {"a.txt"}, "too large together"),
            (deep, {"2.eml", "3.eml"}, "it is attached 3 files deep; at most 2"),
        ]:
            parent = await desk.upload("m.eml", message.as_bytes())
            assert (reason in parent.warnings[-1], set(await files_by_name(desk))) == (True, {"m.eml"} | names)
            await desk.openai.files.delete(parent.id)


async def test_an_encrypted_pdf_is_decrypted_with_its_password_which_is_not_stored(
    platform: Platform, rag: Profile, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    desk, content = platform.desk(), sample("pdftotext", "tests/user_password.pdf")
    for password, code in (("", "password_required"), ("hunter2-wrong", "wrong_password")):
        with pytest.raises(openai.BadRequestError) as rejected:
            await desk.openai.files.create(
                file=("a.pdf", content), purpose="assistants", extra_body={"password": password} if password else {}
            )
        assert (error_body(rejected.value)["code"], error_body(rejected.value)["param"]) == (code, "password")
        assert "hunter2" not in str(rejected.value)
    file = await desk.openai.files.create(
        file=("a.pdf", content), purpose="assistants", extra_body={"password": PASSWORD}
    )
    stored = cast(StoredFile, file)
    assert (stored.decrypted, stored.parent_id, stored.warnings) == (True, None, [])
    again = await desk.openai.files.create(
        file=("a.pdf", content), purpose="assistants", extra_body={"password": PASSWORD}
    )
    store = await desk.openai.vector_stores.create(name="s")
    indexed = await desk.openai.vector_stores.files.create_and_poll(
        file.id, vector_store_id=store.id, poll_interval_ms=50
    )
    assert (indexed.status, again.id == file.id) == ("completed", True)
    with psycopg.connect(rag.postgres) as connection:
        tables = connection.execute(
            "select schemaname || '.' || tablename from pg_tables where schemaname in ('documents', 'audit',"
            " 'vector_store')"
        ).fetchall()
        stored_rows = [connection.execute(f"select t::text from {t} t").fetchall() for (t,) in tables]  # noqa: S608
    files = b"".join(p.read_bytes() for p in (rag.data / "documents").rglob("*") if p.is_file())
    assert (PASSWORD in str(stored_rows), PASSWORD in caplog.text, PASSWORD.encode() in files) == (False, False, False)


async def test_a_pdf_with_a_damaged_page_is_indexed_with_a_warning(platform: Platform) -> None:
    desk = platform.desk()
    content = pdf([["First page"], ["Second page"], ["Third page"]])
    damaged = content.replace(b"6 0 obj\n<< /Type /Page ", b"6 0 obj\n[] % /Type /Page ")
    assert damaged != content
    file = await desk.upload("a.pdf", damaged)
    store = await desk.openai.vector_stores.create(name="s")
    files = desk.openai.vector_stores.files
    record = await files.create_and_poll(file.id, vector_store_id=store.id, poll_interval_ms=50)
    assert (record.status, (record.model_extra or {})["warnings"]) == (
        "completed",
        ["page 2 is damaged and could not be read"],
    )
    pages = [page.text for page in (await files.content(file.id, vector_store_id=store.id)).data]
    assert pages == ["First page", "", "Third page"]
