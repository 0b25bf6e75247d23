"""`drw holds`: legal holds on runs, templates, the desk and the org."""

from __future__ import annotations

from typing import Annotated

import typer

from drw.cli.api import Api
from drw.cli.options import DataDir, Json, format_time, write, write_json, write_table
from drw.kernel.errors import InvalidRequest

holds = typer.Typer(help="Put runs on legal hold: retention does not delete them.", no_args_is_help=True)

Reason = Annotated[str, typer.Option(help="Reason, such as the name of the matter.", show_default=False)]


def add_to(app: typer.Typer, panel: str) -> None:
    """Add the commands."""
    app.add_typer(holds, name="holds", rich_help_panel=panel)


@holds.command("place")
def place(
    reason: Reason,
    run: Annotated[str, typer.Option(help="Hold this run.", show_default=False)] = "",
    template: Annotated[str, typer.Option(help="Hold all runs of this template.", show_default=False)] = "",
    desk: Annotated[bool, typer.Option("--desk", help="Hold all runs of your desk.")] = False,
    org: Annotated[bool, typer.Option("--org", help="Hold all runs of your org; needs org:admin.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Place a hold."""
    chosen = [kind for kind, value in (("RUN", run), ("TEMPLATE", template), ("DESK", desk), ("ORG", org)) if value]
    if len(chosen) != 1:
        raise InvalidRequest("choose one of --run, --template, --desk and --org")
    response = Api.of(data_dir).post("/api/v1/holds", {"kind": chosen[0], "name": run or template, "reason": reason})
    if as_json:
        write_json(response)
    else:
        write(response["id"])


@holds.command("list")
def list_holds(
    include_released: Annotated[bool, typer.Option("--all", help="Released holds too.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the holds of your desk and org, newest first."""
    records = Api.of(data_dir).get("/api/v1/holds", all="true" if include_released else "false")["holds"]
    if as_json:
        write_json(records)
        return
    rows = [
        (
            *(h["id"], h["kind"].lower(), h["name"] or h["desk"], h["placed_by"], format_time(h.get("placed_at"))),
            *("released" if h.get("released_at") else "in force", h["reason"]),
        )
        for h in records
    ]
    write_table(("HOLD", "KIND", "NAME", "PLACED BY", "AT", "STATE", "REASON"), rows, "no holds")


@holds.command("release")
def release(
    hold: Annotated[str, typer.Argument(help="Hold id, from `drw holds list`.", show_default=False)],
    reason: Reason,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Release a hold: retention deletes its runs when their time has passed."""
    response = Api.of(data_dir).post(f"/api/v1/holds/{hold}:release", {"reason": reason})
    if as_json:
        write_json(response)
    else:
        write(f"{hold} is released")
