"""Safe terminal output: control characters in text from elsewhere are shown, never sent to the terminal."""

from __future__ import annotations

import shutil
import sys
from functools import cache
from typing import TYPE_CHECKING

from drw.cli.escaping import visible

if TYPE_CHECKING:
    from rich.console import Console

NOT_A_TERMINAL = 240
"""The width of tables in a pipe or a file, in characters."""


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
