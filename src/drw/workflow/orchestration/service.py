"""Runs workflows to their end, whatever fails on the way."""

from __future__ import annotations

from drw.api.workflow.v1 import orchestration_rpc as contract
from drw.kernel.host import Scope


class Orchestration(contract.Orchestration):
    """Serves `drw.api.workflow.v1.Orchestration`; this release has the contract and none of its methods."""


async def build(scope: Scope) -> Orchestration:
    """Make the service with what the configuration names."""
    return Orchestration()
