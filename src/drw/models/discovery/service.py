"""Knows every model and where it is served."""

from __future__ import annotations

from drw.api.models.v1 import discovery_rpc as contract
from drw.kernel.host import Scope


class Discovery(contract.Discovery):
    """Serves `drw.api.models.v1.Discovery`; this release has the contract and none of its methods."""


async def build(scope: Scope) -> Discovery:
    """Make the service with what the configuration names."""
    return Discovery()
