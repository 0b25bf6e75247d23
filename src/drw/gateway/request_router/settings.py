"""Settings of routes and kills."""

from __future__ import annotations

from pydantic import Field

from drw.gateway.request_router.kills.settings import KillLimits, KillPolicy
from drw.gateway.request_router.routes.table import RouteSettings
from drw.kernel.runtime.settings import Settings as Base


class Settings(Base):
    """Settings of the request router: additional routes, approvals and limits of kills."""

    routes: tuple[RouteSettings, ...] = ()
    """Additional routes, or replacements of routes of the same name; fields as in `drw routes set`."""
    kill_approvals: KillPolicy = KillPolicy()
    kill_limits: KillLimits = KillLimits()
    kill_proposal_seconds: float = Field(900.0, gt=0, le=86_400)
    """How long a proposal waits for approval."""
