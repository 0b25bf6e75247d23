"""Anthropic's official client for a models cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import anthropic
import httpx2

from models.cluster import KEY, ModelsCluster


@asynccontextmanager
async def anthropic_client(
    cluster: ModelsCluster, key: Mapping[str, str] = KEY
) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """Yield a client that does not repeat requests."""
    transport = httpx2.AsyncHTTPTransport(uds=cluster.socket)
    async with httpx2.AsyncClient(transport=transport, headers=dict(key), timeout=60) as http:
        yield anthropic.AsyncAnthropic(http_client=http, base_url="http://drw", api_key="none", max_retries=0)
