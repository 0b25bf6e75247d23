"""`drw keys`: who may call."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from drw.cli.api import Api
from drw.cli.options import DataDir, Json, console, when, write, write_json, write_table
from drw.kernel.call import SCOPES
from drw.kernel.errors import InvalidRequest

keys = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_to(app: typer.Typer, panel: str) -> None:
    """Add the commands."""
    app.add_typer(keys, name="keys", rich_help_panel=panel)


@keys.command("create")
def create_key(
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", "-s", help=f"What the key may do; repeat it. There are: {', '.join(SCOPES)}."),
    ] = None,
    desk: Annotated[str, typer.Option(help="Whose key it is; by default your own desk.", show_default=False)] = "",
    name: Annotated[str, typer.Option(help="What the key is for.")] = "unnamed",
    ttl: Annotated[str, typer.Option(help="How long it is good, as in 30d, 12h, 15m.")] = "90d",
    rpm: Annotated[int, typer.Option(min=0, help="Requests a minute; 0: the platform's default.")] = 0,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create a key. It is shown once."""
    if not scope:
        raise InvalidRequest("a key needs at least one scope, as in `drw keys create --scope models:invoke`")
    body = {"desk": desk, "name": name, "scopes": scope, "ttl_seconds": _seconds(ttl), "requests_per_minute": rpm}
    made = Api.of(data_dir).post("/api/v1/keys", body)
    if as_json:
        write_json(made)
        return
    write(made["secret"])
    key = made["key"]
    console.print(
        f"\n[dim]{key['id']} of the desk {key['desk']}, good until {when(key['expires_at'])}. "
        "It is not shown again.[/dim]"
    )


@keys.command("list")
def list_keys(
    every: Annotated[bool, typer.Option("--all", help="Also those that are revoked or expired.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the keys."""
    found = Api.of(data_dir).pages("/api/v1/keys", "keys", all=every)
    if as_json:
        write_json(found)
        return
    rows = [
        (
            k["id"],
            k["desk"],
            k["name"],
            f"…{k['last_characters']}",
            "revoked" if k.get("revoked_at") else when(k["expires_at"]),
            k["requests_per_minute"] or "default",
            " ".join(k["scopes"]),
        )
        for k in found
    ]
    write_table(("KEY", "DESK", "NAME", "ENDS IN", "GOOD UNTIL", "RPM", "SCOPES"), rows, "no keys")


@keys.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(help="The id of the key, as `drw keys list` shows it.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Revoke a key: every data plane refuses it from then on."""
    found = Api.of(data_dir).post(f"/api/v1/keys/{key}:revoke")
    if as_json:
        write_json(found)
    else:
        write(f"{key} is revoked")


def _seconds(text: str) -> int:
    if not (match := re.fullmatch(r"(\d{1,9})([smhd])", text)):
        raise InvalidRequest(f"{text!r} is not a time: write it as in 30d, 12h, 15m or 90s")
    return int(match[1]) * UNITS[match[2]]
