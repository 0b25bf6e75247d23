"""Splits traffic between model versions and compares them."""

from __future__ import annotations

from drw.api.models.v1 import experiments_rpc as contract
from drw.kernel.runtime.host import ServiceContext


class Experiments(contract.Experiments):
    """Serves `drw.api.models.v1.Experiments`; this release has the contract and none of its methods."""


async def build(scope: ServiceContext) -> Experiments:
    """Make the service with what the configuration names."""
    return Experiments()
