"""Escaping of control and direction characters in untrusted text."""

from __future__ import annotations

_CONTROLS = (set(range(0x20)) - {0x09, 0x0A}) | set(range(0x7F, 0xA0))
_DIRECTIONS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}  # they reorder the text around them
_ESCAPES = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _CONTROLS | _DIRECTIONS}
_JSON_ESCAPES = {code: f"\\u{code:04x}" for code in _CONTROLS | _DIRECTIONS if code >= 0x7F}


def visible(text: str) -> str:
    """Return the text with control and direction characters escaped, as in `\\x1b`; tab and newline stay."""
    return text.translate(_ESCAPES)


def visible_in_json(text: str) -> str:
    """Return JSON text with the same characters as JSON escapes. Its value does not change."""
    return text.translate(_JSON_ESCAPES)
