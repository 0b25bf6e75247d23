"""Says who is calling and what they may do."""

from __future__ import annotations

from drw.api.gateway.v1 import authentication_rpc as contract
from drw.kernel.host import Scope


class Authentication(contract.Authentication):
    """Serves `drw.api.gateway.v1.Authentication`; this release has the contract and none of its methods."""


async def build(scope: Scope) -> Authentication:
    """Make the service with what the configuration names."""
    return Authentication()
