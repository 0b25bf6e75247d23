"""Scopes of API keys."""

from __future__ import annotations

SCOPES = {
    "models:invoke": "call models",
    "models:read": "list models",
    "models:write": "register model versions, and request promotions",
    "models:approve": "validate, approve, retire and promote model versions",
    "documents:read": "search, ask, and read files and collections",
    "documents:write": "upload, index and delete",
    "workflows:read": "see templates and runs",
    "workflows:run": "start and cancel runs",
    "workflows:write": "create, change and delete the desk's templates",
    "workflows:approve": "approve and reject steps of runs that other persons started",
    "workflows:hold": "put runs on legal hold, and release them",
    "experiments:read": "see experiments",
    "experiments:write": "change experiments",
    "experiments:record": "evaluate experiments, and record exposures and outcomes",
    "events:read": "see events of the event bus",
    "events:write": "let consumers apply parked events again",
    "audit:read": "read and verify the audit log",
    "keys:read": "list keys, desks, limits and budgets",
    "keys:write": "create and revoke keys",
    "limits:write": "set limits and budgets",
    "platform:read": "see health, routes, upstreams, prices and metrics",
    "platform:kill": "refuse calls and cut streams, and let them through again",
    "platform:admin": "change routes, upstreams, aliases, prices, issuers, orgs and signing keys",
    "org:admin": "act for every desk of the org",
}
"""All scopes with their permissions."""
