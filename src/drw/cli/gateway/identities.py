"""`drw whoami`, `orgs`, `desks`, `issuers`, `certificates`: manage identities and trusted issuers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from drw.cli.api import Api
from drw.cli.options import DataDir, Json, format_time, write, write_json, write_table
from drw.kernel.errors import InvalidRequest

orgs = typer.Typer(help="Manage orgs, and the scopes and walls of their desks.", no_args_is_help=True)
desks = typer.Typer(help="Manage desks, and the scopes and walls of their keys.", no_args_is_help=True)
issuers = typer.Typer(help="Manage identity providers whose tokens (JWT) the gateway accepts.", no_args_is_help=True)
certificates = typer.Typer(help="Map TLS client certificates to callers.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Lower-case letters, digits, '-' and '_'.", show_default=False)]
Org = Annotated[str, typer.Option("--org", help="Org. Default: your org. Any other requires platform:admin.")]
Title = Annotated[str, typer.Option("--title", help="Display name.")]
Scopes = Annotated[list[str] | None, typer.Option("--scope", "-s", help="A permitted scope; repeatable.")]
Walls = Annotated[list[str] | None, typer.Option("--wall", help="A permitted wall (information barrier); repeatable.")]
KeepChildren = Annotated[bool, typer.Option("--keep-children", help="Do not revoke the keys created with it.")]
RevokeWider = Annotated[bool, typer.Option("--revoke-wider", help="Revoke the keys that have more scopes or walls.")]


def add_to(app: typer.Typer, panel: str) -> None:
    """Add the commands."""
    app.command(rich_help_panel=panel)(whoami)
    for name, group in (("orgs", orgs), ("desks", desks), ("issuers", issuers), ("certificates", certificates)):
        app.add_typer(group, name=name, rich_help_panel=panel)


def whoami(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show your identity: org, desk, key, scopes and walls."""
    response = Api.of(data_dir).get("/api/v1/me")
    if as_json:
        write_json(response)
        return
    rows = [
        ("org and desk", f"{response['org']} / {response['desk']}"),
        ("key", response["key"]),
        ("identified by", response["identified_by"].lower()),
        ("scopes", " ".join(response["scopes"]) or "none"),
        ("walls", " ".join(response["walls"]) or "none"),
        ("valid until", format_time(response.get("expires_at")) or "the token or certificate expires"),
    ]
    write_table(("", ""), rows)


@orgs.command("put")
def put_org(
    name: Name,
    scope: Scopes = None,
    wall: Walls = None,
    title: Title = "",
    revoke_wider: RevokeWider = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create an org, or set the scopes of its desks. Narrowing existing desks needs --revoke-wider."""
    body = {"title": title, "scopes": scope or [], "walls": wall or [], "revoke_wider": revoke_wider}
    _print_change(Api.of(data_dir).put(f"/api/v1/orgs/{name}", body), f"the org {name} is set", as_json)


@orgs.command("list")
def list_orgs(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the orgs."""
    records = Api.of(data_dir).pages("/api/v1/orgs", "orgs")
    rows = [(o["name"], o["title"], " ".join(o["walls"]), " ".join(o["scopes"])) for o in records]
    _print_table(records, ("ORG", "TITLE", "WALLS", "SCOPES"), rows, "no orgs", as_json)


@orgs.command("delete")
def delete_org(name: Name, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Delete an org without desks and issuers."""
    _print_change(Api.of(data_dir).delete(f"/api/v1/orgs/{name}"), f"the org {name} is deleted", as_json)


@desks.command("put")
def put_desk(
    name: Name,
    org: Org = "",
    scope: Scopes = None,
    wall: Walls = None,
    title: Title = "",
    revoke_wider: RevokeWider = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create a desk, or set the scopes of its keys."""
    body = {"org": org, "title": title, "scopes": scope or [], "walls": wall or [], "revoke_wider": revoke_wider}
    _print_change(Api.of(data_dir).put(f"/api/v1/desks/{name}", body), f"the desk {name} is set", as_json)


@desks.command("list")
def list_desks(org: Org = "", data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the desks of an org."""
    records = Api.of(data_dir).pages("/api/v1/desks", "desks", org=org or None)
    rows = [(d["name"], d["title"], " ".join(d["walls"]), " ".join(d["scopes"])) for d in records]
    _print_table(records, ("DESK", "TITLE", "WALLS", "SCOPES"), rows, "no desks", as_json)


@desks.command("delete")
def delete_desk(
    name: Name,
    org: Org = "",
    revoke_keys: Annotated[bool, typer.Option("--revoke-keys", help="Revoke its valid keys first.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Delete a desk without valid keys and certificates."""
    query = f"?revoke_keys={str(revoke_keys).lower()}" + (f"&org={org}" if org else "")
    _print_change(Api.of(data_dir).delete(f"/api/v1/desks/{name}{query}"), f"the desk {name} is deleted", as_json)


@issuers.command("put")
def put_issuer(
    name: Name,
    issuer: Annotated[str, typer.Option("--issuer", help="The exact claim `iss` of its tokens.")],
    org: Annotated[str, typer.Option("--org", help="The org of its callers.")],
    audience: Annotated[list[str], typer.Option("--audience", help="An accepted claim `aud`; repeatable.")],
    jwks_uri: Annotated[
        str, typer.Option("--jwks-uri", help="URI of its key set, for example https://HOST/jwks.")
    ] = "",
    jwks: Annotated[Path | None, typer.Option("--jwks", help="File with its key set, in place of a URI.")] = None,
    role: Annotated[
        list[str] | None,
        typer.Option("--role", help="Scopes of a role, for example trader=models:invoke,models:read; repeatable."),
    ] = None,
    desk: Annotated[str, typer.Option("--default-desk", help="Desk of tokens without a desk claim.")] = "",
    desk_claim: Annotated[str, typer.Option("--desk-claim", help="Claim with the desk.")] = "desk",
    roles_claim: Annotated[str, typer.Option("--roles-claim", help="Claim with the roles.")] = "roles",
    walls_claim: Annotated[str, typer.Option("--walls-claim", help="Claim with the walls.")] = "",
    org_claim: Annotated[str, typer.Option("--org-claim", help="Claim that must equal the org.")] = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Trust the tokens of an issuer for one org."""
    body: dict[str, Any] = {
        "issuer": issuer,
        "org": org,
        "audiences": audience,
        "jwks_uri": jwks_uri,
        "jwks": _read_file(jwks) if jwks else "",
        "roles": [_parse_role(item) for item in role or ()],
        "default_desk": desk,
        "claims": {"desk": desk_claim, "roles": roles_claim, "walls": walls_claim, "org": org_claim},
    }
    response = Api.of(data_dir).put(f"/api/v1/issuers/{name}", body)
    _print_change(
        response, f"the issuer {name} is set; keys: {', '.join(response['kids']) or '(without ids)'}", as_json
    )


@issuers.command("list")
def list_issuers(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the issuers."""
    records = Api.of(data_dir).get("/api/v1/issuers")["issuers"]
    rows = [
        (i["name"], i["org"], i["issuer"], len(i["kids"]), format_time(i.get("fetched_at")), i["fetch_error"] or "good")
        for i in records
    ]
    _print_table(records, ("ISSUER", "ORG", "ISS", "KEYS", "FETCHED", "LAST FETCH"), rows, "no issuers", as_json)


@issuers.command("refresh")
def refresh_issuer(name: Name, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Fetch the keys of an issuer now."""
    response = Api.of(data_dir).post(f"/api/v1/issuers/{name}:refresh")
    _print_change(response, f"fetched; keys of {name}: {', '.join(response['kids']) or '(without ids)'}", as_json)


@issuers.command("delete")
def delete_issuer(
    name: Name, keep_children: KeepChildren = False, data_dir: DataDir = None, as_json: Json = False
) -> None:
    """Stop trusting an issuer, and revoke the keys created with its tokens."""
    query = f"?keep_children={str(keep_children).lower()}"
    _print_change(Api.of(data_dir).delete(f"/api/v1/issuers/{name}{query}"), f"the issuer {name} is deleted", as_json)


@certificates.command("put")
def put_certificate(
    name: Name,
    san: Annotated[
        str, typer.Option("--san", help="URI or DNS name in the certificate, for example spiffe://firm/desk/pricing.")
    ],
    desk: Annotated[str, typer.Option("--desk", help="Desk of the caller.")],
    scope: Scopes = None,
    wall: Walls = None,
    org: Org = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Map a client certificate to a principal."""
    body = {"san": san, "org": org, "desk": desk, "scopes": scope or [], "walls": wall or []}
    response = Api.of(data_dir).put(f"/api/v1/certificates/{name}", body)
    _print_change(
        response, f"the certificate {name} is set: {san} is the caller cert:{name} of the desk {desk}", as_json
    )


@certificates.command("list")
def list_certificates(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the certificates."""
    records = Api.of(data_dir).get("/api/v1/certificates")["certificates"]
    rows = [(c["name"], c["san"], c["org"], c["desk"], " ".join(c["walls"]), " ".join(c["scopes"])) for c in records]
    _print_table(records, ("CERTIFICATE", "SAN", "ORG", "DESK", "WALLS", "SCOPES"), rows, "no certificates", as_json)


@certificates.command("delete")
def delete_certificate(
    name: Name, keep_children: KeepChildren = False, data_dir: DataDir = None, as_json: Json = False
) -> None:
    """Remove a client certificate, and revoke the keys created with it."""
    query = f"?keep_children={str(keep_children).lower()}"
    _print_change(
        Api.of(data_dir).delete(f"/api/v1/certificates/{name}{query}"), f"the certificate {name} is deleted", as_json
    )


def _print_change(response: dict[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        write_json(response)
        return
    write(text)
    for kind, verb in (("narrowed_desks", "narrowed"), ("revoked_keys", "revoked")):
        for name in response.get(kind, ()):
            write(f"{verb} {name}")


def _print_table(response: Any, columns: tuple[str, ...], rows: list[Any], empty: str, as_json: bool) -> None:
    if as_json:
        write_json(response)
    else:
        write_table(columns, rows, empty)


def _parse_role(text: str) -> dict[str, Any]:
    name, is_there, scopes = text.rpartition("=")
    if not is_there:
        raise InvalidRequest(f"--role is {text!r}; use ROLE=SCOPE,SCOPE, for example trader=models:invoke,models:read")
    return {"name": name, "scopes": [scope for scope in scopes.split(",") if scope]}


def _read_file(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{str(file)!r} cannot be read: {error}") from error
