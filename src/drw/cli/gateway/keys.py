"""`drw keys`: who may call."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from drw.cli import completion
from drw.cli.api import Api
from drw.cli.options import DataDir, Json, warn, when, write, write_json, write_table
from drw.cli.terminal import console
from drw.kernel.errors import InvalidRequest
from drw.kernel.scopes import SCOPES

keys = typer.Typer(help="Create, list, rotate and revoke API keys, and what signs them.", no_args_is_help=True)

Org = Annotated[str, typer.Option("--org", help="Another org than your own; needs platform:admin.", show_default=False)]

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
    wall: Annotated[
        list[str] | None,
        typer.Option("--wall", help="An information barrier inside which the key stands; repeat it."),
    ] = None,
    org: Annotated[
        str, typer.Option(help="Whose desk it is; another org than your own needs platform:admin.", show_default=False)
    ] = "",
    name: Annotated[str, typer.Option(help="What the key is for.")] = "unnamed",
    ttl: Annotated[
        str,
        typer.Option(
            help="How long it is good, as in 30d, 12h, 15m; by default 90d, or as long as you may.", show_default=False
        ),
    ] = "",
    rpm: Annotated[int, typer.Option(min=0, help="Requests a minute; 0: the platform's default.")] = 0,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create a key. It is shown once."""
    if not scope:
        raise InvalidRequest("a key needs at least one scope, as in `drw keys create --scope models:invoke`")
    body = {
        "desk": desk,
        "name": name,
        "scopes": scope,
        "ttl_seconds": _seconds(ttl) if ttl else 0,
        "requests_per_minute": rpm,
        "walls": wall or [],
        "org": org,
    }
    _show_secret(Api.of(data_dir).post("/api/v1/keys", body), as_json)


@keys.command("list")
def list_keys(
    every: Annotated[bool, typer.Option("--all", help="Also those that are revoked or expired.")] = False,
    org: Org = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """List the keys."""
    records = Api.of(data_dir).pages("/api/v1/keys", "keys", all=every, org=org or None)
    if as_json:
        write_json(records)
        return
    rows = [
        (
            k["id"],
            k["desk"],
            k["name"],
            f"…{k['last_characters']}",
            "revoked" if k.get("revoked_at") else when(k["expires_at"]),
            k["requests_per_minute"] or "default",
            k["created_by"],
            " ".join(k["scopes"]),
        )
        for k in records
    ]
    write_table(("KEY", "DESK", "NAME", "ENDS IN", "GOOD UNTIL", "RPM", "MADE BY", "SCOPES"), rows, "no keys")


@keys.command("revoke")
def revoke_key(
    key: Annotated[
        str, typer.Argument(help="The id of the key, as `drw keys list` shows it.", autocompletion=completion.keys)
    ],
    keep_children: Annotated[
        bool, typer.Option("--keep-children", help="Revoke this key alone; those made with it stay good.")
    ] = False,
    org: Org = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Revoke a key, with all keys made with it: every data plane refuses them from then on."""
    body = {"org": org, "keep_children": keep_children}
    response = Api.of(data_dir).post(f"/api/v1/keys/{key}:revoke", body)
    if as_json:
        write_json(response)
        return
    write(f"{key} is revoked")
    for child in response["revoked_keys"]:
        write(f"{child}, made with it, is revoked")
    if response["kept_keys"]:
        warn(f"drw: {response['kept_keys']} keys issued with it stay valid; ask an administrator to revoke them")


@keys.command("show")
def show_key(
    key: Annotated[
        str, typer.Argument(help="The id of the key, as `drw keys list` shows it.", autocompletion=completion.keys)
    ],
    org: Org = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show one key: whose it is, what it may do, how it ends."""
    response = Api.of(data_dir).get(f"/api/v1/keys/{key}", org=org or None)
    if as_json:
        write_json(response)
        return
    rows = [
        ("key", response["id"]),
        ("name", response["name"]),
        ("org and desk", f"{response['org']} / {response['desk']}"),
        ("scopes", " ".join(response["scopes"])),
        ("walls", " ".join(response["walls"]) or "none"),
        ("ends in", f"…{response['last_characters']}"),
        ("requests a minute", response["requests_per_minute"] or "the default"),
        ("made", when(response["created_at"])),
        ("made by", response["created_by"] or "unknown"),
        ("good until", when(response.get("ends_at") or response["expires_at"])),
        ("revoked", when(response.get("revoked_at")) or "no"),
        ("successor", response["successor"] or "none"),
        ("signed with", response["signed_with"]),
    ]
    write_table(("", ""), rows)


@keys.command("rotate")
def rotate_key(
    key: Annotated[
        str, typer.Argument(help="The id of the key, as `drw keys list` shows it.", autocompletion=completion.keys)
    ],
    overlap: Annotated[str, typer.Option(help="How long both are good, as in 1h; 0s: not at all.")] = "1h",
    org: Org = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make a key's successor, with the same rights, limits and budgets. The key itself ends after the overlap."""
    body = {"overlap_seconds": _seconds(overlap), "org": org}
    response = Api.of(data_dir).post(f"/api/v1/keys/{key}:rotate", body)
    _show_secret(response, as_json)


@keys.command("signing")
def list_signing_keys(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List what signs and verifies keys."""
    signing_keys = Api.of(data_dir).get("/api/v1/signingKeys")["signing_keys"]
    if as_json:
        write_json(signing_keys)
        return
    rows = [
        (k["kid"], k["state"].lower(), when(k["signs_from"]), k["good_keys"], when(k.get("last_key_ends_at")))
        for k in signing_keys
    ]
    write_table(("SIGNING KEY", "STATE", "SIGNS FROM", "GOOD KEYS", "THE LAST ENDS"), rows)


@keys.command("rotate-signing")
def rotate_signing_key(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Make a new signing key. Keys that older ones signed stay good to their end."""
    response = Api.of(data_dir).post("/api/v1/signingKeys:rotate")
    if as_json:
        write_json(response)
    else:
        write(f"{response['kid']} is known to the data planes, and signs new keys from {when(response['signs_from'])}")


@keys.command("retire-signing")
def retire_signing_key(
    kid: Annotated[str, typer.Argument(help="The id of the signing key, as `drw keys signing` shows it.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make every key bad that a signing key signed, at once: for one that somebody else may have."""
    api = Api.of(data_dir)
    if not yes:
        typer.confirm(f"Every key that {kid} signed becomes bad, perhaps your own. Go on?", abort=True, err=True)
    done = api.post(f"/api/v1/signingKeys/{kid}:retire")
    if as_json:
        write_json(done)
    else:
        write(
            f"{kid} is retired; {done['revoked_keys']} keys are bad. `drw up` makes a new first key where it is needed"
        )


def _show_secret(made: dict[str, Any], as_json: bool) -> None:
    if as_json:
        write_json(made)
        return
    write(made["secret"])
    key = made["key"]
    console().print(
        f"\n[dim]{key['id']} of the desk {key['desk']}, good until {when(key['expires_at'])}. "
        "It is not shown again.[/dim]"
    )


def _seconds(text: str) -> int:
    if not (match := re.fullmatch(r"(\d{1,9})([smhd])", text)):
        raise InvalidRequest(f"{text!r} is not a time: write it as in 30d, 12h, 15m or 90s")
    return int(match[1]) * UNITS[match[2]]
