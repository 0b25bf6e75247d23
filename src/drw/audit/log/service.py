"""Keeps the audit trail, and proves that nobody changed it."""

from __future__ import annotations

from drw.api.audit.v1 import log_rpc as contract
from drw.kernel.host import Scope


class Log(contract.Log):
    """Serves `drw.api.audit.v1.Log`; this release has the contract and none of its methods."""


async def build(scope: Scope) -> Log:
    """Make the service with what the configuration names."""
    return Log()
