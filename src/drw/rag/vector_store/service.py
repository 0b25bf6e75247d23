"""Stores passages with their vectors and words, and finds the nearest."""

from __future__ import annotations

from drw.api.rag.v1 import vector_store_rpc as contract
from drw.kernel.host import Scope


class VectorStore(contract.VectorStore):
    """Serves `drw.api.rag.v1.VectorStore`; this release has the contract and none of its methods."""


async def build(scope: Scope) -> VectorStore:
    """Make the service with what the configuration names."""
    return VectorStore()
