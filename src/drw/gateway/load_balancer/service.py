"""Knows where each upstream answers, and how to spread requests over it."""

from __future__ import annotations

from drw.api.gateway.v1 import load_balancer_rpc as contract
from drw.kernel.host import Scope


class LoadBalancer(contract.LoadBalancer):
    """Serves `drw.api.gateway.v1.LoadBalancer`; this release has the contract and none of its methods."""


async def build(scope: Scope) -> LoadBalancer:
    """Make the service with what the configuration names."""
    return LoadBalancer()
