"""Validation of requests to the kill switch."""

from __future__ import annotations

from drw.api.gateway.v1.request_router_pb2 import CreateKillRequest, Kill
from drw.gateway.request_router.kills.approval_rules import ADMIN
from drw.kernel.errors import Forbidden, InvalidRequest
from drw.kernel.rpc.context import Principal

MAX_REASON = 500
DEFAULT_PAGE = 100

TENANT_SUBJECTS = (Kill.KEY, Kill.DESK)
"""Subjects that belong to an org."""


def requested_kill(request: CreateKillRequest, principal: Principal) -> Kill:
    """Return the requested kill.

    Raises:
        InvalidRequest: it would stop the caller's own key or desk, or has no reason.
        Forbidden: the org is not the caller's.
    """
    org = _kill_org(request, principal)
    _check_not_self(request.subject, org, request.name, principal)
    return Kill(
        subject=request.subject,
        org=org,
        name=request.name,
        reason=reason(request.reason, "kill"),
        by_platform=ADMIN in principal.scopes,
    )


def _kill_org(request: CreateKillRequest, principal: Principal) -> str:
    if request.org not in ("", principal.org) and ADMIN not in principal.scopes:
        raise Forbidden(f"the caller belongs to the org {principal.org!r}, not to {request.org!r}", scope=ADMIN)
    in_all_orgs = request.subject not in TENANT_SUBJECTS and ADMIN in principal.scopes
    return request.org or ("" if in_all_orgs else principal.org)


def _check_not_self(subject: int, org: str, name: str, principal: Principal) -> None:
    if subject == Kill.KEY and (org, name) == (principal.org, principal.key):
        raise InvalidRequest(f"this would stop your own key {name!r}; `drw keys revoke` revokes it", param="name")
    if subject == Kill.DESK and (org, name) == (principal.org, principal.desk):
        message = f"this would stop your own desk {name!r}, and you could not lift it; use a key of another desk"
        raise InvalidRequest(message, param="name")


def reason(text: str, action: str) -> str:
    """Return the reason, stripped; `action` is "kill" or "lift".

    Raises:
        InvalidRequest: it is empty or too long.
    """
    if not 1 <= len(text.strip()) <= MAX_REASON:
        raise InvalidRequest(f"a {action} needs a reason of 1 to {MAX_REASON} characters", param="reason")
    return text.strip()
