"""`drw files`: manage uploaded files and their attachments."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from drw.cli.api import Api
from drw.cli.options import DataDir, Json, format_time, write, write_json, write_line, write_table

files = typer.Typer(help="List and delete uploaded files and their attachments.", no_args_is_help=True)


@files.command("list")
def list_files(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number, newest first.")] = 100,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the desk's files. PARENT is the file that an attachment came from."""
    data = Api.of(data_dir).get("/v1/files", limit=limit)["data"]
    if as_json:
        write_json(data)
        return
    rows = [
        (f["filename"], f["id"], f["bytes"], f["parent_id"] or "", len(f["warnings"]), _format_seconds(f["created_at"]))
        for f in data
    ]
    write_table(("FILE", "ID", "BYTES", "PARENT", "WARNINGS", "CREATED"), rows, "no files")


@files.command("show")
def show_file(file: Annotated[str, typer.Argument(help="File id.")], data_dir: DataDir = None) -> None:
    """Show a file: encoding, parent, warnings."""
    write_json(Api.of(data_dir).get(f"/v1/files/{file}"))


@files.command("delete")
def delete_file(
    file: Annotated[str, typer.Argument(help="File id.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Delete a file and its attachments from all collections."""
    if not yes:
        typer.confirm(f"Delete the file {file} and those attached to it?", abort=True)
    response = Api.of(data_dir).delete(f"/v1/files/{file}")
    if as_json:
        write_line(response)
    else:
        write(f"deleted {file}")


def _format_seconds(seconds: int) -> str:
    return format_time(datetime.fromtimestamp(seconds, UTC).isoformat())
