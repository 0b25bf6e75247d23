"""Shared options and output functions."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from drw.cli.escaping import visible, visible_in_json
from drw.cli.terminal import console, width

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="DRW_DATA_DIR",
        help="Data folder of the platform. Default: .drw beside the virtual environment.",
        show_default=False,
        file_okay=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

Walls = Annotated[
    list[str] | None,
    typer.Option(
        "--wall",
        help="A wall (information barrier) of the new object; repeatable. Default: all walls of your key.",
    ),
]


GAP = "  "
MIN_LAST_WIDTH = 24
"""Minimum width to which the last column of a table is folded, in characters."""


def write_json(value: Any) -> None:
    """Write a value as JSON on standard output."""
    sys.stdout.write(visible_in_json(json.dumps(value, indent=2, ensure_ascii=False)) + "\n")


def write_line(value: Any) -> None:
    """Write a value as one line of JSON and flush, for streams."""
    sys.stdout.write(visible_in_json(json.dumps(value, ensure_ascii=False)) + "\n")
    sys.stdout.flush()


def write_table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str = "") -> None:
    """Write a table, or `empty` if there are no rows."""
    cells = [[str(cell) for cell in row] for row in rows]
    if not cells and empty:
        write(empty)
        return
    if not _write_plain_table(columns, cells):
        _write_folded_table(columns, cells)


def _write_plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Write the table without rich, which takes longer to load than an API call; return False if it needs rich.

    It needs rich for wide characters, and to fold columns other than the last.
    """
    cells = [[visible(cell) for cell in row] for row in (columns, *rows)]
    if any(len(row) != len(columns) for row in rows):
        return False
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    last_width = width() - sum(widths[:-1]) - len(GAP) * (len(widths) - 1)
    if last_width < min(widths[-1], MIN_LAST_WIDTH) or not all(
        map(_is_narrow, "".join(cell for row in cells for cell in row))
    ):
        return False
    lines = []
    for *first, last in cells:
        wrapped = textwrap.wrap(last, last_width, break_on_hyphens=False) if len(last) > last_width else []
        for part in wrapped or [last]:
            lines.append(GAP.join([*map(str.ljust, first, widths), part]).rstrip())
            first = [""] * len(first)
    head = f"\x1b[1m{lines[0]}\x1b[0m" if sys.stdout.isatty() and os.environ.get("TERM") != "dumb" else lines[0]
    print(head, *lines[1:], sep="\n")
    return True


def _is_narrow(character: str) -> bool:
    """Return whether a character certainly has the width 1 in a terminal: Latin letters and the ellipsis."""
    return character.isprintable() and (character < "\u0300" or character == "…")


def _write_folded_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console().print(table)


def write(text: str) -> None:
    """Write a line of text."""
    print(visible(text))


def warn(text: str) -> None:
    """Write a line on standard error."""
    print(visible(text), file=sys.stderr)


def format_time(timestamp: str | None) -> str:
    """Return an API timestamp in readable form, or "" without one."""
    return timestamp[:19].replace("T", " ") if timestamp else ""
