"""A/B experiments between model versions: the contract, without an implementation."""

from __future__ import annotations

from drw.api.models.v1 import experiments_rpc as contract
from drw.kernel.runtime.host import ServiceContext


class Experiments(contract.Experiments):
    """Serves `drw.api.models.v1.Experiments`; no method is implemented."""


async def build(scope: ServiceContext) -> Experiments:
    """Build the service."""
    return Experiments()
