"""Detects the encoding of text: Unicode with and without a byte order mark, and the usual legacy encodings."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from charset_normalizer import from_bytes

from drw.rag.documents.ports import ParseFailed

MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
NAMES = {"utf-8-sig": "utf-8", "iso8859_15": "iso-8859-15", "koi8_r": "koi8-r", "euc_jp": "euc-jp", "euc_kr": "euc-kr"}
LATIN = ("cp1252", "cp1250", "cp850", "iso8859_15")
"""The first wins where several read the same text equally well."""
OTHERS = ("cp1251", "cp866", "koi8_r", "cp1253", "shift_jis", "gb18030", "big5", "euc_jp", "euc_kr")
SAMPLE = 64 << 10
MAX_CHAOS = 0.2
"""As charset-normalizer measures it: above, a text looks like noise."""
ODD_SHARE = 0.2
"""Maximum share of non-ASCII characters in implausible positions."""
WRONG = "\ufffd"
WRONG_SHARE = 0.05
"""Maximum share of invalid non-ASCII characters in text that is still decoded as UTF-8."""
HIGH = re.compile(rb"[\x80-\xff]")
AROUND = 2000
"""Bytes of a line that are looked at before and after one beyond ASCII."""
CONTROL = re.compile("[\0-\x08\x0e-\x1a\x1c-\x1f\x7f-\x9f]")
# A symbol inside a word, a capital inside a small word, a frame or a fraction beside a letter.
ODD = re.compile(
    r"(?<=[^\W\d_])[¡-¿†‡ˆ‰‹›˜™×÷‚„…](?=[^\W\d_])|[─-▟¤]|(?<=[a-zß-ÿ])[À-ÖØ-ÞŠŽŒ]|(?<=[^\W\d_])[¹³¼½¾‚„ª¦¨¯¸](?!\d)"
)


def decoded(content: bytes) -> tuple[str, str]:
    """Return the text and the name of its encoding; line ends become line feeds.

    Raises:
        ParseFailed: it is not text, or its encoding cannot be detected with confidence.
    """
    encoding = _encoding(content)
    errors = "replace" if encoding == "utf-8" else "strict"  # some wrong bytes in much UTF-8
    try:
        text = content.decode(encoding, errors)
    except UnicodeDecodeError as error:
        name = NAMES.get(encoding, encoding).upper()
        raise ParseFailed(f"this is not text in {name}: byte {error.start} is wrong") from error
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", ""), NAMES.get(encoding, encoding)


def decoded_as(content: bytes, encoding: str) -> str | None:
    """Decode text with the declared encoding; None if that is unknown or does not match."""
    try:
        return content.decode(encoding)
    except (LookupError, ValueError):  # some codecs of Python raise more than UnicodeDecodeError
        return None


def _encoding(content: bytes) -> str:
    for mark, name in MARKS:
        if content.startswith(mark):
            return name
    if encoding := _unmarked(content):
        return encoding
    if b"\0" in content[:SAMPLE]:
        raise ParseFailed("this is not text: it has zero bytes")
    try:
        content.decode()
    except UnicodeDecodeError as error:
        text = content.decode(errors="replace")
        wrong = text.count(WRONG)
        right = sum(c > "\x7f" for c in text)
        return "utf-8" if wrong <= WRONG_SHARE * right else _legacy(content, error)
    return "utf-8"


def _unmarked(content: bytes) -> str:
    """Return the encoding of UTF-16 and UTF-32 without a byte order mark, by the bytes that hardly change."""
    sample = content[: SAMPLE & ~3]
    for name, width, high in (
        *(("utf-32-le", 4, (2, 3)), ("utf-32-be", 4, (0, 1))),
        *(("utf-16-le", 2, (1,)), ("utf-16-be", 2, (0,))),
    ):
        size = len(sample) // width
        if size < 2 or len(content) % width:
            continue
        if all(sample[at::width].count(0) >= 0.5 * size for at in high) and _reads_as(sample, name):
            return name
    size = len(sample) // 2
    for name, at in (("utf-16-le", 1), ("utf-16-be", 0)):
        # Spaces, digits and line ends of any script have a zero byte, on one side only.
        zeros = sample[at::2].count(0)
        others = sample[1 - at :: 2].count(0)
        if size > 8 and not len(content) % 2 and zeros >= 0.05 * size and not others and _reads_as(sample, name):
            return name
    return ""


def _reads_as(sample: bytes, encoding: str) -> bool:
    try:
        text = sample.decode(encoding, "strict")
    except UnicodeDecodeError:
        return False
    printable = sum(c.isprintable() or c in "\t\n\r\f" for c in text)
    return printable >= 0.97 * len(text)


def _legacy(content: bytes, error: UnicodeDecodeError) -> str:
    sample = b"\n".join(_sample(content))
    matches = from_bytes(sample, cp_isolation=[*LATIN, *OTHERS], threshold=MAX_CHAOS)
    best = matches.best()
    if best is not None and best.encoding in OTHERS:
        return str(best.encoding)
    if encoding := _latin(sample):
        return encoding
    raise ParseFailed(
        f"this is not text in UTF-8: byte {error.start} is wrong; its encoding cannot be detected: save it as UTF-8"
    )


def _sample(content: bytes) -> Iterator[bytes]:
    """Yield lines with bytes beyond ASCII: only those tell."""
    left = SAMPLE
    end = 0
    while left > 0 and (match := HIGH.search(content, end)):
        at = match.start()
        begin = max(end, at - AROUND, content.rfind(b"\n", max(end, at - AROUND), at) + 1)
        end = content.find(b"\n", at, at + AROUND)
        end = end if end >= 0 else at + AROUND
        yield content[begin:end]
        left -= end - begin


def _latin(sample: bytes) -> str:
    """Return the Latin encoding with the fewest misplaced characters."""
    odd: dict[str, int] = {}
    for name in LATIN:
        try:
            text = sample.decode(name)
        except UnicodeDecodeError:
            continue
        if not CONTROL.search(text):
            odd[name] = len(ODD.findall(text))
    high = sum(byte > 127 for byte in sample)
    encoding = min(odd, key=lambda name: odd[name], default="")
    return encoding if encoding and odd[encoding] <= ODD_SHARE * high else ""
