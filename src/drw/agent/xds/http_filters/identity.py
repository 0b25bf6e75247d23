"""The identity filter: maps issuer tokens and client certificates to a principal.

It runs after token verification, relies only on verified tokens and TLS, and sets the same headers as an API key.
Without issuers and certificates it is disabled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

from drw.agent.xds.builders import Json, typed
from drw.agent.xds.http_filters import local_replies
from drw.agent.xds.http_filters.filters import ALIVE, LUA
from drw.api.gateway.v1.authentication_pb2 import Certificate, Credentials, Desk, Issuer

SAID = {
    "alive": dict.fromkeys(ALIVE, True),
    "missing": local_replies.MISSING,
    "not_valid": local_replies.NOT_VALID,
    "subject": "the token names nobody: its claim `sub` must be a text of at most 128 characters",
    "org": "the token is for another org than the one for which its issuer may speak",
    "desk": "the token's org has no such desk: '",
    "certificate": "the certificate is good, and stands for nobody here: `drw certificates put` says for whom it does",
    "several": "the certificate carries the names of several callers; it must carry one",
}
"""Error message for a valid token or certificate that maps to no principal."""


def identity(credentials: Credentials) -> Json:
    """Return the filter."""
    if not credentials.issuers and not credentials.certificates:
        return typed(LUA)
    bounds = {(desk.org, desk.name): desk for desk in credentials.desks}
    tables = {
        "issuers": {issuer.name: _issuer(issuer) for issuer in credentials.issuers},
        "desks": _desks(credentials.desks),
        "certificates": dict(_certificates(credentials.certificates, bounds)),
        "said": SAID,
    }
    code = resources.files(__package__).joinpath("identity.lua").read_text(encoding="utf-8")
    above = "\n".join(f"local {name} = {lua(table)}" for name, table in tables.items())
    return typed(LUA, default_source_code={"inline_string": f"{above}\n{code}"})


def _issuer(issuer: Issuer) -> Json:
    claims = issuer.claims
    return {
        "org": issuer.org,
        "claims": {"org": claims.org, "desk": claims.desk, "roles": claims.roles, "walls": claims.walls},
        "default_desk": issuer.default_desk or None,
        "roles": {role.name: sorted(role.scopes) for role in issuer.roles},
    }


def _desks(desks: Iterable[Desk]) -> dict[str, Json]:
    orgs: dict[str, Json] = {}
    for desk in desks:
        bounds = {"scopes": dict.fromkeys(desk.scopes, True), "walls": dict.fromkeys(desk.walls, True)}
        orgs.setdefault(desk.org, {})[desk.name] = bounds
    return orgs


def _certificates(
    certificates: Iterable[Certificate], bounds: Mapping[tuple[str, str], Desk]
) -> Iterable[tuple[str, dict[str, str]]]:
    for one in certificates:
        if (desk := bounds.get((one.org, one.desk))) is not None:
            scopes = sorted(scope for scope in one.scopes if scope in desk.scopes)
            walls = sorted(wall for wall in one.walls if wall in desk.walls)
            permissions = {"scopes": " ".join(scopes), "walls": " ".join(walls)}
            yield one.san, {"key": f"cert:{one.name}", "org": one.org, "desk": one.desk, **permissions}


def lua(value: Any) -> str:
    """Return nested mappings, lists, strings and booleans as a Lua literal, with sorted keys and without None."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return '"' + "".join(_character(byte) for byte in value.encode()) + '"'
        case Mapping():
            pairs = (f"[{lua(key)}] = {lua(value[key])}" for key in sorted(value) if value[key] is not None)
            return "{" + ", ".join(pairs) + "}"
    return "{" + ", ".join(lua(one) for one in value) + "}"


def _character(byte: int) -> str:
    """Return a byte as part of a Lua string literal, escaped if needed."""
    plain = 32 <= byte < 127 and byte not in b'"\\'
    return chr(byte) if plain else f"\\{byte:03d}"
