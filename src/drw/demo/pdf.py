"""Writes plain PDF: lines of text in one font."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH, HEIGHT, MARGIN, LEADING, SIZE = 595, 842, 56, 15, 10


def pdf(pages: Sequence[Sequence[str]]) -> bytes:
    """Return a PDF with these lines on its pages; the same lines give the same bytes."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Courier >>",
    ]
    for number, lines in enumerate(pages):
        box = f"/MediaBox [0 0 {WIDTH} {HEIGHT}] /Resources << /Font << /F 3 0 R >> >>"
        objects.append(f"<< /Type /Page /Parent 2 0 R {box} /Contents {5 + 2 * number} 0 R >>".encode())
        content_stream = _content_stream(lines)
        objects.append(b"<< /Length %d >>\nstream\n%b\nendstream" % (len(content_stream), content_stream))
    return _file(objects)


def _content_stream(lines: Sequence[str]) -> bytes:
    operators = "".join(f"({_escaped(line)}) Tj T*\n" for line in lines)
    return f"BT /F {SIZE} Tf {LEADING} TL {MARGIN} {HEIGHT - MARGIN} Td\n{operators}ET".encode("latin-1")


def _escaped(line: str) -> str:
    return line.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")


def _file(objects: Sequence[bytes]) -> bytes:
    out = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, content in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%b\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    return bytes(
        out
        + b"xref\n0 %d\n0000000000 65535 f \n%b" % (size, table)
        + b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (size, len(out))
    )
