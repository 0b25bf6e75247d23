"""Keeps each caller's limits."""

from __future__ import annotations

from drw.api.gateway.v1 import rate_limiting_rpc as contract
from drw.kernel.host import Scope


class RateLimiting(contract.RateLimiting):
    """Serves `drw.api.gateway.v1.RateLimiting`; this release has the contract and none of its methods."""


async def build(scope: Scope) -> RateLimiting:
    """Make the service with what the configuration names."""
    return RateLimiting()
