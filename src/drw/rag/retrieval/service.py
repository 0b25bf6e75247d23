"""Finds the passages that answer a question, and words an answer with citations."""

from __future__ import annotations

from drw.api.rag.v1 import retrieval_rpc as contract
from drw.kernel.host import Scope


class Retrieval(contract.Retrieval):
    """Serves `drw.api.rag.v1.Retrieval`; this release has the contract and none of its methods."""


async def build(scope: Scope) -> Retrieval:
    """Make the service with what the configuration names."""
    return Retrieval()
