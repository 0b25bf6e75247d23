"""Escaping of control and direction characters in text from elsewhere."""

from __future__ import annotations

_CONTROLS = (set(range(0x20)) - {0x09, 0x0A}) | set(range(0x7F, 0xA0))
_DIRECTIONS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}  # they reorder what is around them on the screen
_SHOWN = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _CONTROLS | _DIRECTIONS}
_IN_JSON = {code: f"\\u{code:04x}" for code in _CONTROLS | _DIRECTIONS if code >= 0x7F}


def visible(text: str) -> str:
    """Return the text with its control and direction characters written out, as in `\\x1b`; tab and newline stay."""
    return text.translate(_SHOWN)


def visible_in_json(text: str) -> str:
    """Return JSON text with the same characters as JSON escapes; the value that it stands for stays the same."""
    return text.translate(_IN_JSON)
