"""`drw responses`: read and delete stored responses."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from drw.cli.api import Api
from drw.cli.options import DataDir, Json, write, write_json, write_line, write_table

PAGE = 100
responses = typer.Typer(
    help="Read and delete stored responses of /v1/responses. The API does not list them: keep their ids.",
    no_args_is_help=True,
)
ResponseId = Annotated[str, typer.Argument(help="Response id, such as resp_1a2b.")]


def add_to(app: typer.Typer, section: str) -> None:
    """Register the commands."""
    app.add_typer(responses, name="responses", rich_help_panel=section)


@responses.command("show")
def show_response(
    response: ResponseId,
    text: Annotated[bool, typer.Option("--text", help="Write only the text of the answer.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Show a response: status, output with its citations, usage."""
    shown = Api.of(data_dir).get(f"/v1/responses/{response}")
    write("".join(_text(item) for item in shown["output"] if item["type"] == "message")) if text else write_json(shown)


@responses.command("input-items")
def list_input_items(
    response: ResponseId,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number, oldest first.")] = 100,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the input items of a response. Those of the responses before it are not included."""
    api = Api.of(data_dir)
    items: list[dict[str, Any]] = []
    after: str | None = None
    while len(items) < limit:
        size = min(PAGE, limit - len(items))
        page = api.get(f"/v1/responses/{response}/input_items", order="asc", limit=size, after=after)
        items += page["data"]
        if not page["has_more"]:
            break
        after = page["last_id"]
    if as_json:
        write_json(items)
        return
    rows = [(item["id"], item["type"], item.get("role", ""), _text(item)) for item in items]
    write_table(("ITEM", "TYPE", "ROLE", "TEXT"), rows, "no input items")


@responses.command("delete")
def delete_response(
    response: ResponseId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Delete a response. Responses that continue it cannot be continued any more."""
    if not yes:
        typer.confirm(f"Delete the response {response} and the chain through it?", abort=True)
    deleted = Api.of(data_dir).delete(f"/v1/responses/{response}")
    write_line(deleted) if as_json else write(f"deleted {response}")


def _text(item: dict[str, Any]) -> str:
    """Return the text of an item: of a message, of a call, or of its output."""
    if item["type"] != "message":
        return str(item.get("arguments") or item.get("output") or "")
    return "".join(part.get("text") or part.get("refusal") or "" for part in item["content"])
