"""Shows the state of every run as it changes."""

from __future__ import annotations

from drw.api.workflow.v1 import state_rpc as contract
from drw.kernel.host import Scope


class State(contract.State):
    """Serves `drw.api.workflow.v1.State`; this release has the contract and none of its methods."""


async def build(scope: Scope) -> State:
    """Make the service with what the configuration names."""
    return State()
