"""`drw templates`: validate, create, update and delete workflow templates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drw.cli.api import Api
from drw.cli.options import DataDir, Json, format_time, write, write_json, write_table
from drw.kernel.errors import InvalidRequest

templates = typer.Typer(help="Validate, create, update and delete workflow templates.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="YAML file of the template.", show_default=False)]
Name = Annotated[str, typer.Argument(help="Template name.", show_default=False)]


def add_to(app: typer.Typer, panel: str) -> None:
    """Add the commands."""
    app.add_typer(templates, name="templates", rich_help_panel=panel)


@templates.command("validate")
def validate(file: File, as_json: Json = False) -> None:
    """Show all mistakes of a template with line and column. It needs no running platform."""
    from drw.workflow.templates import parser  # here, since the library of expressions takes time to import

    problems = parser.validate(_read(file).encode(), str(file))
    if as_json:
        write_json([{"line": p.line, "column": p.column, "message": p.message} for p in problems])
    elif problems:
        for problem in problems:
            write(f"{file}:{problem}")
    else:
        write(f"{file} is valid")
    if problems:
        raise typer.Exit(1)


@templates.command("put")
def put(
    file: File,
    if_version: Annotated[str, typer.Option(help="Fail unless this version is current.")] = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create or update a template of your desk. The name is that in the file."""
    from drw.workflow.templates import parser

    source = _read(file)
    name = parser.parse(source.encode(), str(file)).name
    body = {"source": source} | ({"if_version": if_version} if if_version else {})
    response = Api.of(data_dir).put(f"/api/v1/templates/{name}", body)
    if as_json:
        write_json(response)
    else:
        write(f"{name}  {response['version'][:12]}")


@templates.command("versions")
def versions(name: Name, data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the changes of a template of your desk, newest first."""
    changes = Api.of(data_dir).get(f"/api/v1/templates/{name}/versions")["changes"]
    if as_json:
        write_json(changes)
        return
    rows = [(c["version"][:12] or "deleted", c["changed_by"], format_time(c.get("changed_at"))) for c in changes]
    write_table(("VERSION", "BY", "AT"), rows)


@templates.command("delete")
def delete(name: Name, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Delete a template of your desk. Its runs continue, and its versions remain readable."""
    response = Api.of(data_dir).delete(f"/api/v1/templates/{name}")
    if as_json:
        write_json(response)
    else:
        write(f"your desk has no template {name!r} of its own any more")


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{file} cannot be read: {error}") from error
