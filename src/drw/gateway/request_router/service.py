"""Puts together what the data plane does with a request."""

from __future__ import annotations

from drw.api.gateway.v1 import request_router_rpc as contract
from drw.kernel.host import Scope


class RequestRouter(contract.RequestRouter):
    """Serves `drw.api.gateway.v1.RequestRouter`; this release has the contract and none of its methods."""


async def build(scope: Scope) -> RequestRouter:
    """Make the service with what the configuration names."""
    return RequestRouter()
