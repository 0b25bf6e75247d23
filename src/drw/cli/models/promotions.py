"""`drw models promote`, `promotions`, `approve-promotion`, `reject-promotion`, `rollback`, `history`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from drw.cli.api import Api
from drw.cli.options import DataDir, Json, format_time, write, write_json, write_table
from drw.cli.times import parse_time

PATH = "/api/v1/promotions"
Alias = Annotated[str, typer.Argument(help="Alias, such as prod.", show_default=False)]
Promotion = Annotated[str, typer.Argument(help="Promotion, from `drw models promotions`.", show_default=False)]
Reason = Annotated[str, typer.Option(help="Why.", show_default=False)]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (promote, promotions, approve_promotion, reject_promotion, rollback, history):
        app.command()(command)


def promote(
    alias: Alias,
    version: Annotated[str, typer.Argument(help="Version, from `drw models versions`.", show_default=False)],
    reason: Reason,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Request that an alias names a version. Another person approves it."""
    body = {"alias": alias, "version": version, "reason": reason}
    promotion = Api.of(data_dir).post(PATH, body)
    if as_json:
        write_json(promotion)
    else:
        write(f"{promotion['id']} is pending; another person runs: drw models approve-promotion {promotion['id']}")


def promotions(
    alias: Annotated[str, typer.Option(help="Only of this alias.", show_default=False)] = "",
    state: Annotated[str, typer.Option(help="Only pending, approved or rejected ones.", show_default=False)] = "",
    limit: Annotated[int, typer.Option(min=1, help="Maximum number.")] = 100,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List promotions, newest first."""
    query = {"alias": alias or None, "state": state.upper() or None}
    listed = Api.of(data_dir).pages(PATH, "promotions", limit, page_size=min(limit, 1000), **query)
    if as_json:
        write_json(listed)
        return
    rows = [
        (p["id"], p["alias"], p["version"], p["state"].lower(), p["requested_by"], p["decided_by"], p["reason"])
        for p in listed
    ]
    columns = ("PROMOTION", "ALIAS", "VERSION", "STATE", "REQUESTED BY", "DECIDED BY", "REASON")
    write_table(columns, rows, "no promotions")


def approve_promotion(promotion: Promotion, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Approve a promotion: the alias then names the version."""
    _decide(data_dir, promotion, "approve", {}, as_json)


def reject_promotion(promotion: Promotion, reason: Reason, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Reject or withdraw a promotion."""
    _decide(data_dir, promotion, "reject", {"reason": reason}, as_json)


def rollback(alias: Alias, reason: Reason, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Return an alias to the version before. One person suffices."""
    answer = Api.of(data_dir).post(f"/api/v1/aliases/{quote(alias, safe='')}:rollback", {"reason": reason})
    if as_json:
        write_json(answer)
    elif answer["targets"]:
        write(f"{alias} names {answer['targets'][0]['model']} again")
    else:
        write(f"{alias} is removed: no version was named before")


def history(
    alias: Alias,
    at: Annotated[
        str, typer.Option(help="Only what it named at this time (UTC), as in 2026-11-03T14:31Z.", show_default=False)
    ] = "",
    limit: Annotated[int, typer.Option(min=1, help="Maximum number.")] = 100,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show which versions an alias named, since when, and who changed it."""
    path = f"/api/v1/aliases/{quote(alias, safe='')}/history"
    query = {"at": parse_time(at) if at else None}
    entries = Api.of(data_dir).pages(path, "entries", limit, page_size=min(limit, 1000), **query)
    if as_json:
        write_json(entries)
        return
    rows = [
        (
            format_time(e["valid_from"]),
            format_time(e.get("valid_to")),
            " ".join(t["model"] for t in e["targets"]) or "(none)",
            e["changed_by"],
            " ".join(filter(None, (e["promotion"], e["reason"]))),
        )
        for e in entries
    ]
    write_table(("FROM", "TO", "NAMES", "CHANGED BY", "REASON"), rows, "nothing at this time")


def _decide(data_dir: Path | None, promotion: str, action: str, body: dict[str, Any], as_json: bool) -> None:
    answer = Api.of(data_dir).post(f"{PATH}/{quote(promotion, safe='')}:{action}", body)
    if as_json:
        write_json(answer)
    else:
        write(f"{answer['id']} is {answer['state'].lower()}: {answer['alias']} to {answer['version']}")
