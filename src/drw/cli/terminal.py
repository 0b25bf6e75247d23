"""Safe terminal output: control characters in text from elsewhere are shown, never sent to the terminal."""

from __future__ import annotations

import shutil
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_CONTROLS = (set(range(0x20)) - {0x09, 0x0A}) | set(range(0x7F, 0xA0))
_DIRECTIONS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}  # they reorder what is around them on the screen
_SHOWN = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _CONTROLS | _DIRECTIONS}
_IN_JSON = {code: f"\\u{code:04x}" for code in _CONTROLS | _DIRECTIONS if code >= 0x7F}

NOT_A_TERMINAL = 240
"""The width of tables in a pipe or a file, in characters."""


def visible(text: str) -> str:
    """Return the text with its control and direction characters written out, as in `\\x1b`; tab and newline stay."""
    return text.translate(_SHOWN)


def visible_in_json(text: str) -> str:
    """Return JSON text with the same characters as JSON escapes; the value that it stands for stays the same."""
    return text.translate(_IN_JSON)


def stream(text: str) -> None:
    """Write a piece of text on standard output at once, without a newline of its own."""
    sys.stdout.write(visible(text))
    sys.stdout.flush()


def width() -> int:
    """Return how many characters a line of a table may have."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else NOT_A_TERMINAL


@cache
def console() -> Console:
    """Return the console for tables and styled text; rich is loaded only where there is something to style."""
    from drw.cli.console import SafeConsole

    return SafeConsole(
        highlight=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else NOT_A_TERMINAL
    )
