"""Character encoding detection: Unicode with and without a byte order mark, and common legacy encodings."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from charset_normalizer import from_bytes

from drw.rag.documents.ports import ParseFailed

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
STANDARD_NAMES = {
    "utf-8-sig": "utf-8",
    "iso8859_15": "iso-8859-15",
    "koi8_r": "koi8-r",
    "euc_jp": "euc-jp",
    "euc_kr": "euc-kr",
}
LATIN_ENCODINGS = ("cp1252", "cp1250", "cp850", "iso8859_15")
"""In order of preference, for text that several of them decode equally well."""
OTHER_ENCODINGS = ("cp1251", "cp866", "koi8_r", "cp1253", "shift_jis", "gb18030", "big5", "euc_jp", "euc_kr")
SAMPLE_BYTES = 64 << 10
MAX_MESS_RATIO = 0.2
"""Maximum mess ratio of charset-normalizer; decoded text above it looks like noise."""
MAX_MISPLACED_SHARE = 0.2
"""Maximum share of non-ASCII characters in implausible positions."""
REPLACEMENT = "\ufffd"
MAX_INVALID_SHARE = 0.05
"""Maximum share of invalid non-ASCII characters in text that is still decoded as UTF-8."""
NON_ASCII = re.compile(rb"[\x80-\xff]")
CONTEXT_BYTES = 2000
"""Bytes of a line that are sampled before and after a non-ASCII byte."""
CONTROL_CHARACTERS = re.compile("[\0-\x08\x0e-\x1a\x1c-\x1f\x7f-\x9f]")
# A symbol inside a word, a capital letter after a small one, a box-drawing character, a fraction after a letter.
MISPLACED = re.compile(
    r"(?<=[^\W\d_])[¡-¿†‡ˆ‰‹›˜™×÷‚„…](?=[^\W\d_])|[─-▟¤]|(?<=[a-zß-ÿ])[À-ÖØ-ÞŠŽŒ]|(?<=[^\W\d_])[¹³¼½¾‚„ª¦¨¯¸](?!\d)"
)


def decode(content: bytes) -> tuple[str, str]:
    """Decode text; return it with line feeds as line ends, and the name of its encoding.

    Raises:
        ParseFailed: the content is not text, or its encoding cannot be detected with confidence.
    """
    encoding = _detect(content)
    errors = "replace" if encoding == "utf-8" else "strict"  # UTF-8 with few invalid bytes
    try:
        text = content.decode(encoding, errors)
    except UnicodeDecodeError as error:
        name = STANDARD_NAMES.get(encoding, encoding).upper()
        raise ParseFailed(f"this is not text in {name}: byte {error.start} is wrong") from error
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", ""), STANDARD_NAMES.get(encoding, encoding)


def decode_as(content: bytes, encoding: str) -> str | None:
    """Decode text with its declared encoding; return None if the encoding is unknown or does not match."""
    try:
        return content.decode(encoding)
    except (LookupError, ValueError):  # some codecs of Python raise more than UnicodeDecodeError
        return None


def _detect(content: bytes) -> str:
    for mark, name in BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return name
    if encoding := _detect_utf_16_or_32(content):
        return encoding
    if b"\0" in content[:SAMPLE_BYTES]:
        raise ParseFailed("this is not text: it has zero bytes")
    try:
        content.decode()
    except UnicodeDecodeError as error:
        text = content.decode(errors="replace")
        invalid = text.count(REPLACEMENT)
        valid = sum(c > "\x7f" for c in text)
        return "utf-8" if invalid <= MAX_INVALID_SHARE * valid else _detect_legacy(content, error)
    return "utf-8"


def _detect_utf_16_or_32(content: bytes) -> str:
    """Detect UTF-16 and UTF-32 without a byte order mark by the positions of zero bytes; return "" for neither."""
    sample = content[: SAMPLE_BYTES & ~3]
    for name, width, zero_offsets in (
        *(("utf-32-le", 4, (2, 3)), ("utf-32-be", 4, (0, 1))),
        *(("utf-16-le", 2, (1,)), ("utf-16-be", 2, (0,))),
    ):
        size = len(sample) // width
        if size < 2 or len(content) % width:
            continue
        if all(sample[offset::width].count(0) >= 0.5 * size for offset in zero_offsets) and _is_printable_as(
            sample, name
        ):
            return name
    size = len(sample) // 2
    for name, offset in (("utf-16-le", 1), ("utf-16-be", 0)):
        # Spaces, digits and line ends of any script have a zero byte, on one side only.
        zeros = sample[offset::2].count(0)
        others = sample[1 - offset :: 2].count(0)
        if size > 8 and not len(content) % 2 and zeros >= 0.05 * size and not others and _is_printable_as(sample, name):
            return name
    return ""


def _is_printable_as(sample: bytes, encoding: str) -> bool:
    try:
        text = sample.decode(encoding, "strict")
    except UnicodeDecodeError:
        return False
    printable = sum(c.isprintable() or c in "\t\n\r\f" for c in text)
    return printable >= 0.97 * len(text)


def _detect_legacy(content: bytes, error: UnicodeDecodeError) -> str:
    sample = b"\n".join(_non_ascii_lines(content))
    matches = from_bytes(sample, cp_isolation=[*LATIN_ENCODINGS, *OTHER_ENCODINGS], threshold=MAX_MESS_RATIO)
    best = matches.best()
    if best is not None and best.encoding in OTHER_ENCODINGS:
        return str(best.encoding)
    if encoding := _detect_latin(sample):
        return encoding
    raise ParseFailed(
        f"this is not text in UTF-8: byte {error.start} is wrong; its encoding cannot be detected: save it as UTF-8"
    )


def _non_ascii_lines(content: bytes) -> Iterator[bytes]:
    """Yield the lines with non-ASCII bytes: only they tell legacy encodings apart."""
    remaining = SAMPLE_BYTES
    end = 0
    while remaining > 0 and (match := NON_ASCII.search(content, end)):
        offset = match.start()
        start = max(end, offset - CONTEXT_BYTES, content.rfind(b"\n", max(end, offset - CONTEXT_BYTES), offset) + 1)
        end = content.find(b"\n", offset, offset + CONTEXT_BYTES)
        end = end if end >= 0 else offset + CONTEXT_BYTES
        yield content[start:end]
        remaining -= end - start


def _detect_latin(sample: bytes) -> str:
    """Return the Latin encoding with the fewest misplaced characters; "" if all have too many."""
    misplaced: dict[str, int] = {}
    for name in LATIN_ENCODINGS:
        try:
            text = sample.decode(name)
        except UnicodeDecodeError:
            continue
        if not CONTROL_CHARACTERS.search(text):
            misplaced[name] = len(MISPLACED.findall(text))
    non_ascii = sum(byte > 127 for byte in sample)
    encoding = min(misplaced, key=lambda name: misplaced[name], default="")
    return encoding if encoding and misplaced[encoding] <= MAX_MISPLACED_SHARE * non_ascii else ""
