"""Turns documents into passages and indexes them."""

from __future__ import annotations

from drw.api.rag.v1 import documents_rpc as contract
from drw.kernel.host import Scope


class Documents(contract.Documents):
    """Serves `drw.api.rag.v1.Documents`; this release has the contract and none of its methods."""


async def build(scope: Scope) -> Documents:
    """Make the service with what the configuration names."""
    return Documents()
