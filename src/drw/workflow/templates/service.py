"""Keeps the workflow templates and their versions."""

from __future__ import annotations

from drw.api.workflow.v1 import templates_rpc as contract
from drw.kernel.host import Scope


class Templates(contract.Templates):
    """Serves `drw.api.workflow.v1.Templates`; this release has the contract and none of its methods."""


async def build(scope: Scope) -> Templates:
    """Make the service with what the configuration names."""
    return Templates()
