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
from drw.agent.xds.http_filters.filters import HEALTH_PATHS, LUA
from drw.api.gateway.v1.authentication_pb2 import Certificate, Credentials, Desk, Issuer

MESSAGES = {
    "alive": dict.fromkeys(HEALTH_PATHS, True),
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
    desks = {(desk.org, desk.name): desk for desk in credentials.desks}
    tables = {
        "issuers": {issuer.name: _issuer(issuer) for issuer in credentials.issuers},
        "desks": _desks(credentials.desks),
        "certificates": dict(_certificates(credentials.certificates, desks)),
        "messages": MESSAGES,
    }
    code = resources.files(__package__).joinpath("identity.lua").read_text(encoding="utf-8")
    definitions = "\n".join(f"local {name} = {lua_literal(table)}" for name, table in tables.items())
    return typed(LUA, default_source_code={"inline_string": f"{definitions}\n{code}"})


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
        allowed = {"scopes": dict.fromkeys(desk.scopes, True), "walls": dict.fromkeys(desk.walls, True)}
        orgs.setdefault(desk.org, {})[desk.name] = allowed
    return orgs


def _certificates(
    certificates: Iterable[Certificate], desks: Mapping[tuple[str, str], Desk]
) -> Iterable[tuple[str, dict[str, str]]]:
    for certificate in certificates:
        if (desk := desks.get((certificate.org, certificate.desk))) is not None:
            scopes = sorted(scope for scope in certificate.scopes if scope in desk.scopes)
            walls = sorted(wall for wall in certificate.walls if wall in desk.walls)
            permissions = {"scopes": " ".join(scopes), "walls": " ".join(walls)}
            yield (
                certificate.san,
                {"key": f"cert:{certificate.name}", "org": certificate.org, "desk": certificate.desk, **permissions},
            )


def lua_literal(value: Any) -> str:
    """Return nested mappings, lists, strings and booleans as a Lua literal, with sorted keys and without None."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return '"' + "".join(_character(byte) for byte in value.encode()) + '"'
        case Mapping():
            pairs = (
                f"[{lua_literal(key)}] = {lua_literal(value[key])}" for key in sorted(value) if value[key] is not None
            )
            return "{" + ", ".join(pairs) + "}"
    return "{" + ", ".join(lua_literal(item) for item in value) + "}"


def _character(byte: int) -> str:
    """Return a byte as part of a Lua string literal, escaped if needed."""
    printable = 32 <= byte < 127 and byte not in b'"\\'
    return chr(byte) if printable else f"\\{byte:03d}"
