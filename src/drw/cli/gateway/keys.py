"""`drw keys`: create, list, rotate and revoke API keys."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from drw.cli import completion
from drw.cli.api import Api
from drw.cli.options import DataDir, Json, format_time, warn, write, write_json, write_table
from drw.cli.terminal import console
from drw.cli.times import parse_duration
from drw.kernel.errors import InvalidRequest
from drw.kernel.scopes import SCOPES

keys = typer.Typer(help="Manage API keys and signing keys.", no_args_is_help=True)

Org = Annotated[
    str, typer.Option("--org", help="Org; any other than yours requires platform:admin.", show_default=False)
]


def add_to(app: typer.Typer, panel: str) -> None:
    """Add the commands."""
    app.add_typer(keys, name="keys", rich_help_panel=panel)


@keys.command("create")
def create_key(
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", "-s", help=f"A scope of the key; repeatable. Scopes: {', '.join(SCOPES)}."),
    ] = None,
    desk: Annotated[str, typer.Option(help="Desk of the key. Default: your desk.", show_default=False)] = "",
    wall: Annotated[
        list[str] | None,
        typer.Option("--wall", help="A wall (information barrier) of the key; repeatable."),
    ] = None,
    org: Annotated[
        str, typer.Option(help="Org of the desk; any other than yours requires platform:admin.", show_default=False)
    ] = "",
    name: Annotated[str, typer.Option(help="Purpose of the key.")] = "unnamed",
    ttl: Annotated[
        str,
        typer.Option(
            help="Validity, for example 30d, 12h, 15m. Default: 90d, or the longest allowed.", show_default=False
        ),
    ] = "",
    rpm: Annotated[int, typer.Option(min=0, help="Requests per minute; 0: the platform's default.")] = 0,
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
        "ttl_seconds": parse_duration(ttl) if ttl else 0,
        "requests_per_minute": rpm,
        "walls": wall or [],
        "org": org,
    }
    _print_secret(Api.of(data_dir).post("/api/v1/keys", body), as_json)


@keys.command("list")
def list_keys(
    every: Annotated[bool, typer.Option("--all", help="Include revoked and expired keys.")] = False,
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
            "revoked" if k.get("revoked_at") else format_time(k["expires_at"]),
            k["requests_per_minute"] or "default",
            k["created_by"],
            " ".join(k["scopes"]),
        )
        for k in records
    ]
    write_table(
        ("KEY", "DESK", "NAME", "LAST CHARACTERS", "VALID UNTIL", "RPM", "CREATED BY", "SCOPES"), rows, "no keys"
    )


@keys.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(help="Key id, from `drw keys list`.", autocompletion=completion.keys)],
    keep_children: Annotated[
        bool, typer.Option("--keep-children", help="Revoke only this key; keys created with it stay valid.")
    ] = False,
    org: Org = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Revoke a key and all keys created with it. Every data plane rejects them from then on."""
    body = {"org": org, "keep_children": keep_children}
    response = Api.of(data_dir).post(f"/api/v1/keys/{key}:revoke", body)
    if as_json:
        write_json(response)
        return
    write(f"{key} is revoked")
    for child in response["revoked_keys"]:
        write(f"{child}, created with it, is revoked")
    if response["kept_keys"]:
        warn(f"drw: {response['kept_keys']} keys issued with it stay valid; ask an administrator to revoke them")


@keys.command("show")
def show_key(
    key: Annotated[str, typer.Argument(help="Key id, from `drw keys list`.", autocompletion=completion.keys)],
    org: Org = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show one key: owner, scopes, expiry."""
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
        ("last characters", f"…{response['last_characters']}"),
        ("requests a minute", response["requests_per_minute"] or "the default"),
        ("created", format_time(response["created_at"])),
        ("created by", response["created_by"] or "unknown"),
        ("valid until", format_time(response.get("ends_at") or response["expires_at"])),
        ("revoked", format_time(response.get("revoked_at")) or "no"),
        ("successor", response["successor"] or "none"),
        ("signed with", response["signed_with"]),
    ]
    write_table(("", ""), rows)


@keys.command("rotate")
def rotate_key(
    key: Annotated[str, typer.Argument(help="Key id, from `drw keys list`.", autocompletion=completion.keys)],
    overlap: Annotated[str, typer.Option(help="Time that both keys are valid, for example 1h; 0s: no overlap.")] = "1h",
    org: Org = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create the successor of a key with the same rights, limits and budgets. The old key expires after the overlap."""
    body = {"overlap_seconds": parse_duration(overlap), "org": org}
    response = Api.of(data_dir).post(f"/api/v1/keys/{key}:rotate", body)
    _print_secret(response, as_json)


@keys.command("signing")
def list_signing_keys(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the signing keys."""
    signing_keys = Api.of(data_dir).get("/api/v1/signingKeys")["signing_keys"]
    if as_json:
        write_json(signing_keys)
        return
    rows = [
        (
            k["kid"],
            k["state"].lower(),
            format_time(k["signs_from"]),
            k["good_keys"],
            format_time(k.get("last_key_ends_at")),
        )
        for k in signing_keys
    ]
    write_table(("SIGNING KEY", "STATE", "SIGNS FROM", "VALID KEYS", "LAST EXPIRY"), rows)


@keys.command("rotate-signing")
def rotate_signing_key(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Create a new signing key. API keys signed with older ones stay valid."""
    response = Api.of(data_dir).post("/api/v1/signingKeys:rotate")
    if as_json:
        write_json(response)
    else:
        write(f"{response['kid']} is on all data planes, and signs new keys from {format_time(response['signs_from'])}")


@keys.command("retire-signing")
def retire_signing_key(
    kid: Annotated[str, typer.Argument(help="Signing key id, from `drw keys signing`.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Invalidate all API keys signed with a signing key at once, for a compromised signing key."""
    api = Api.of(data_dir)
    if not yes:
        typer.confirm(
            f"All keys signed with {kid} become invalid, possibly including yours. Continue?", abort=True, err=True
        )
    response = api.post(f"/api/v1/signingKeys/{kid}:retire")
    if as_json:
        write_json(response)
    else:
        write(
            f"{kid} is retired; {response['revoked_keys']} keys are invalid. `drw up` creates a new first key if needed"
        )


def _print_secret(created: dict[str, Any], as_json: bool) -> None:
    if as_json:
        write_json(created)
        return
    write(created["secret"])
    key = created["key"]
    console().print(
        f"\n[dim]{key['id']} of the desk {key['desk']}, valid until {format_time(key['expires_at'])}. "
        "It is not shown again.[/dim]"
    )
