"""Desks that call the documents service over HTTP, with OpenAI's client."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import openai
import psycopg

from drw.kernel.rpc.context import Principal
from drw.kernel.storage.database import Database
from drw.rag.documents.ingestion.job_queue import JobQueue
from support.hosting import hosted

SERVICES = ["embedding", "vector_store", "documents"]


class Desk:
    """The HTTP clients of one desk, with its key."""

    def __init__(self, host, desk, scopes):
        self.caller = Principal("acme", desk, f"key_{desk}", frozenset(scopes.split()))
        headers = {"x-drw-key": f"key_{desk}", "x-drw-org": "acme", "x-drw-desk": desk, "x-drw-scopes": scopes}
        transport = httpx.ASGITransport(app=host.app())
        self.http = httpx.AsyncClient(transport=transport, base_url="http://drw/v1", headers=headers, timeout=60)
        self.openai = openai.AsyncOpenAI(
            api_key="-", base_url="http://drw/v1", http_client=cast(Any, self.http), max_retries=0
        )

    async def upload(self, name, content, purpose="assistants"):
        return await self.openai.files.create(file=(name, content), purpose=purpose)


def query(profile, sql, *args):
    """Execute a statement in the database of a profile; return its rows, if any."""
    with psycopg.connect(profile.postgres, autocommit=True) as connection:
        cursor = connection.execute(sql, args)
        return cursor.fetchall() if cursor.description else []


def error_body(error: openai.APIStatusError) -> dict[str, Any]:
    """Return the error object of a response, in OpenAI's format."""
    assert isinstance(error.body, dict)
    return error.body


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
async def queue_with_job(platform, profile, report):
    """Yield a job queue with one job, its database, and the id of the file."""
    desk = platform.desk()
    file = await desk.upload("report.pdf", report)
    await desk.openai.vector_stores.create(name="c", file_ids=[file.id])
    database = Database(profile.postgres, "documents")
    await database.start("drw.rag.documents")
    yield JobQueue(database, platform.host.audit("documents")), database, file.id
    await database.stop()


@asynccontextmanager
async def running(profile, services=SERVICES):
    async with hosted(profile, services) as host:
        platform = Platform(host)
        try:
            yield platform
        finally:
            await platform.close()
