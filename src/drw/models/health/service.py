"""Watches every service, and says which are fit to serve."""

from __future__ import annotations

from drw.api.models.v1 import health_rpc as contract
from drw.kernel.host import Scope


class Health(contract.Health):
    """Serves `drw.api.models.v1.Health`; this release has the contract and none of its methods."""


async def build(scope: Scope) -> Health:
    """Make the service with what the configuration names."""
    return Health()
