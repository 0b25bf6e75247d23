"""Documents together with what it calls, over HTTP as OpenAI's client does it, for any desk."""

from __future__ import annotations

from contextlib import asynccontextmanager

import httpx
import openai
import pytest

from conftest import hosted
from drw.demo.pdf import pdf
from drw.kernel.rpc.context import Principal

SERVICES = ["embedding", "vector_store", "documents"]


@pytest.fixture
def rag(hashing):
    return hashing


class Desk:
    """One desk's key in front of a host."""

    def __init__(self, host, desk, scopes):
        self.caller = Principal("acme", desk, f"key_{desk}", frozenset(scopes.split()))
        headers = {"x-drw-key": f"key_{desk}", "x-drw-org": "acme", "x-drw-desk": desk, "x-drw-scopes": scopes}
        transport = httpx.ASGITransport(app=host.app())
        self.http = httpx.AsyncClient(transport=transport, base_url="http://drw/v1", headers=headers, timeout=60)
        self.openai = openai.AsyncOpenAI(api_key="-", base_url="http://drw/v1", http_client=self.http, max_retries=0)

    async def upload(self, name, content, purpose="assistants"):
        return await self.openai.files.create(file=(name, content), purpose=purpose)


class Platform:
    def __init__(self, host):
        self.host = host
        self._desks = []

    def desk(self, name="research", scopes="documents:read documents:write"):
        self._desks.append(Desk(self.host, name, scopes))
        return self._desks[-1]

    async def close(self):
        for desk in self._desks:
            await desk.http.aclose()


@asynccontextmanager
async def running(profile, services=SERVICES):
    async with hosted(profile, services) as host:
        platform = Platform(host)
        try:
            yield platform
        finally:
            await platform.close()


@pytest.fixture
async def platform(rag):
    async with running(rag) as platform:
        yield platform


@pytest.fixture
def idle(rag):
    """The same, with nobody who indexes."""
    return running(rag.model_copy(update={"services": rag.services | {"documents": {"indexers": 0}}}))


@pytest.fixture
def narrow(rag):
    """The same, with room for few attached files."""
    bounds = {"max_attached_files": 3, "max_attached_bytes": 5000, "max_attachment_depth": 2, "workers": 1}
    return running(rag.model_copy(update={"services": rag.services | {"documents": bounds}}))


@pytest.fixture
def report():
    return pdf([["Harbour Lane Trading Ltd", "For the quarter ended December 31, 2025"], ["Rates 17.8 16.1"]])
