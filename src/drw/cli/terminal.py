"""Safe terminal output: control characters in untrusted text are escaped, never sent to the terminal."""

from __future__ import annotations

import shutil
import sys
from functools import cache
from typing import TYPE_CHECKING

from drw.cli.escaping import visible

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 240
"""Width of tables in a pipe or a file, in characters."""


def stream(text: str) -> None:
    """Write text to standard output and flush, without adding a newline."""
    sys.stdout.write(visible(text))
    sys.stdout.flush()


def width() -> int:
    """Return the width of tables, in characters."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH


@cache
def console() -> Console:
    """Return the console for tables and styled text. It loads rich, which is slow."""
    from drw.cli.console import SafeConsole

    return SafeConsole(highlight=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_WIDTH)
