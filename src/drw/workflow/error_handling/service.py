"""Dead letters: stores failed steps and redrives them."""

from __future__ import annotations

from drw.api.workflow.v1 import error_handling_rpc as contract
from drw.kernel.runtime.host import ServiceContext


class ErrorHandling(contract.ErrorHandling):
    """Serves `drw.api.workflow.v1.ErrorHandling`. Every method of this release returns UNIMPLEMENTED."""


async def build(scope: ServiceContext) -> ErrorHandling:
    """Build the service from its settings."""
    return ErrorHandling()
