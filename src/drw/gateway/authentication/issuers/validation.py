"""Validation of issuers across fields; the rules of single fields are in the contract."""

from __future__ import annotations

from drw.api.gateway.v1.authentication_pb2 import ClaimNames, Issuer, PutIssuerRequest, Role
from drw.gateway.authentication.tenants import permissions
from drw.kernel.errors import InvalidRequest

MAX_NAME = 32
"""The length of an issuer's name, as in the contract: it is part of the id of every caller."""


def requested_issuer(request: PutIssuerRequest, own_issuer: str) -> Issuer:
    """Return the requested issuer; `own_issuer` is the issuer of the platform's own keys."""
    claims = ClaimNames(desk="desk", roles="roles")
    claims.MergeFrom(request.claims)
    issuer = Issuer(
        name=request.name,
        issuer=request.issuer,
        audiences=sorted(set(request.audiences)),
        jwks_uri=request.jwks_uri,
        org=request.org,
        claims=claims,
        default_desk=request.default_desk,
    )
    issuer.roles.extend(sorted([_role(role) for role in request.roles], key=lambda role: role.name))
    if issuer.issuer == own_issuer:
        raise InvalidRequest(f"issuer is {issuer.issuer!r}, which is this platform itself", param="issuer")
    if len({role.name for role in issuer.roles}) < len(issuer.roles):
        raise InvalidRequest("roles has a name twice; give each role once", param="roles")
    if bool(request.jwks_uri) == bool(request.jwks):
        raise InvalidRequest("an issuer needs jwks_uri or jwks, one of the two", param="jwks_uri")
    issuer.jwks = request.jwks
    return issuer


def _role(role: Role) -> Role:
    return Role(name=role.name, scopes=permissions.scopes(role.scopes, "roles"))
