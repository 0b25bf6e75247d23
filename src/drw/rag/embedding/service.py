"""Turns text into vectors."""

from __future__ import annotations

from drw.api.rag.v1 import embedding_rpc as contract
from drw.kernel.host import Scope


class Embedding(contract.Embedding):
    """Serves `drw.api.rag.v1.Embedding`; this release has the contract and none of its methods."""


async def build(scope: Scope) -> Embedding:
    """Make the service with what the configuration names."""
    return Embedding()
