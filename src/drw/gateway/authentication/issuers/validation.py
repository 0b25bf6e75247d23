"""What an issuer may be: its names, its audiences, its claims and its roles."""

from __future__ import annotations

from drw.api.gateway.v1.authentication_pb2 import ClaimNames, Issuer, PutIssuerRequest, Role
from drw.gateway.authentication.tenants import record_validation
from drw.kernel.errors import InvalidRequest

MAX_NAME = 32
"""Short, since it stands in the id of every caller."""

MAX_TEXT = 200
MAX_AUDIENCES = 20
MAX_ROLES = 50


def wanted(request: PutIssuerRequest, own: str) -> Issuer:
    """Return the issuer that is wished for; `own` is what this platform's keys say of their issuer."""
    claims = ClaimNames(desk="desk", roles="roles")
    claims.MergeFrom(request.claims)
    found = Issuer(
        name=record_validation.name(request.name, "name", MAX_NAME),
        issuer=_text(request.issuer, "issuer"),
        audiences=sorted({_text(audience, "audiences") for audience in request.audiences}),
        jwks_uri=request.jwks_uri,
        org=record_validation.name(request.org, "org"),
        claims=claims,
        default_desk=record_validation.name(request.default_desk, "default_desk") if request.default_desk else "",
    )
    found.roles.extend(sorted([_role(role) for role in request.roles], key=lambda role: role.name))
    for _, value in claims.ListFields():
        _text(value, "claims")
    if found.issuer == own:
        raise InvalidRequest(f"issuer is {found.issuer!r}, which is this platform itself", param="issuer")
    if not 1 <= len(found.audiences) <= MAX_AUDIENCES:
        # Without one, a token that the issuer made for anybody else would count here.
        raise InvalidRequest(f"audiences: 1 to {MAX_AUDIENCES}, what `aud` says of this platform", param="audiences")
    if len(found.roles) > MAX_ROLES or len({role.name for role in found.roles}) < len(found.roles):
        raise InvalidRequest(f"roles: at most {MAX_ROLES}, each once", param="roles")
    if bool(request.jwks_uri) == bool(request.jwks):
        raise InvalidRequest("an issuer needs jwks_uri or jwks, one of the two", param="jwks_uri")
    found.jwks = request.jwks
    return found


def _role(role: Role) -> Role:
    return Role(name=_text(role.name, "roles"), scopes=record_validation.scopes(role.scopes, "roles"))


def _text(value: str, param: str) -> str:
    if not 1 <= len(value) <= MAX_TEXT or not value.isprintable() or value != value.strip():
        raise InvalidRequest(f"{param}: 1 to {MAX_TEXT} printable characters each", param=param)
    return value
