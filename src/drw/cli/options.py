"""Shared options and output functions."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from drw.cli.terminal import console, visible, visible_in_json

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
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in cells:
        table.add_row(*(escape(cell) for cell in row))
    console().print(table)


def write(text: str) -> None:
    """Write a line of text."""
    print(visible(text))


def warn(text: str) -> None:
    """Write a line on standard error."""
    print(visible(text), file=sys.stderr)


def when(timestamp: str | None) -> str:
    """Return an API timestamp in readable form."""
    return timestamp[:19].replace("T", " ") if timestamp else ""
