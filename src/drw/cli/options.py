"""Options that many commands take, and how they write."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="DRW_DATA_DIR",
        help="The platform's data folder; by default .drw beside the virtual environment.",
        show_default=False,
        file_okay=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")]

Walls = Annotated[
    list[str] | None,
    typer.Option(
        "--wall",
        help="A wall that it is to stand inside of; repeat it. By default all that your key stands inside of.",
    ),
]

NOT_A_TERMINAL = 240
"""The width of tables in a pipe or a file, in characters."""

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else NOT_A_TERMINAL)


def write_json(value: Any) -> None:
    """Write a value as JSON on standard output."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def write_line(value: Any) -> None:
    """Write a value as one line of JSON, at once: for streams."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def write_table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str = "") -> None:
    """Write rows under their columns; `empty` where there are none."""
    found = [[str(cell) for cell in row] for row in rows]
    if not found and empty:
        console.print(empty, markup=False)
        return
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in found:
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)


def write(text: str) -> None:
    """Write a line of text as it is."""
    console.print(text, markup=False)


def warn(text: str) -> None:
    """Write a line on standard error."""
    print(text, file=sys.stderr)


def when(timestamp: str | None) -> str:
    """Return a timestamp of the API in a form for people."""
    return timestamp[:19].replace("T", " ") if timestamp else ""
