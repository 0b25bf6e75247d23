"""Keeps failed steps, and puts them back to work."""

from __future__ import annotations

from drw.api.workflow.v1 import error_handling_rpc as contract
from drw.kernel.runtime.host import ServiceContext


class ErrorHandling(contract.ErrorHandling):
    """Serves `drw.api.workflow.v1.ErrorHandling`; this release has the contract and none of its methods."""


async def build(scope: ServiceContext) -> ErrorHandling:
    """Make the service with what the configuration names."""
    return ErrorHandling()
