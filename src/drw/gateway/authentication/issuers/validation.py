"""Validation of issuers across fields; the rules of single fields are in the contract."""

from __future__ import annotations

from drw.api.gateway.v1.authentication_pb2 import ClaimNames, Issuer, PutIssuerRequest, Role
from drw.gateway.authentication.tenants import permissions
from drw.kernel.errors import InvalidRequest

MAX_NAME = 32
"""Maximum length of an issuer's name, as in the contract. The name is part of its callers' ids."""


def requested_issuer(request: PutIssuerRequest, platform_issuer: str) -> Issuer:
    """Return the requested issuer; `platform_issuer` is the issuer of API keys.

    Raises:
        InvalidRequest: fields contradict each other, or a scope does not exist.
    """
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
    for role in sorted(request.roles, key=lambda role: role.name):
        issuer.roles.append(Role(name=role.name, scopes=permissions.scopes(role.scopes, "roles")))
    if issuer.issuer == platform_issuer:
        raise InvalidRequest(f"issuer is {issuer.issuer!r}, which is this platform itself", param="issuer")
    if len({role.name for role in issuer.roles}) < len(issuer.roles):
        raise InvalidRequest("roles has a name twice; give each role once", param="roles")
    if bool(request.jwks_uri) == bool(request.jwks):
        raise InvalidRequest("an issuer needs jwks_uri or jwks, one of the two", param="jwks_uri")
    issuer.jwks = request.jwks
    return issuer
