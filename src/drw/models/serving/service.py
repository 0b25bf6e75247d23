"""Runs models."""

from __future__ import annotations

from drw.api.models.v1 import serving_rpc as contract
from drw.kernel.host import Scope


class Serving(contract.Serving):
    """Serves `drw.api.models.v1.Serving`; this release has the contract and none of its methods."""


async def build(scope: Scope) -> Serving:
    """Make the service with what the configuration names."""
    return Serving()
