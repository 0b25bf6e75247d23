"""Desks that call the documents service over HTTP, with OpenAI's client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import openai
import psycopg
from openai.types import FileObject
from starlette.routing import Route

from drw.kernel.rpc.context import Principal
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.database import Database
from drw.rag.documents.ingestion.job_queue import JobQueue
from support.hosting import hosted
from support.json_types import Json

SERVICES = ["embedding", "vector_store", "documents"]


class StoredFile(FileObject):
    """A file, with the fields that are not in OpenAI's API."""

    parent_id: str | None
    warnings: list[str]
    encoding: str | None
    decrypted: bool


class Desk:
    """The HTTP clients of one desk, with its key."""

    def __init__(self, host: Host, desk: str, scopes: str) -> None:
        self.caller = Principal("acme", desk, f"key_{desk}", frozenset(scopes.split()))
        headers = {"x-drw-key": f"key_{desk}", "x-drw-org": "acme", "x-drw-desk": desk, "x-drw-scopes": scopes}
        transport = httpx.ASGITransport(app=host.app())
        self.http = httpx.AsyncClient(transport=transport, base_url="http://drw/v1", headers=headers, timeout=60)
        self.openai = openai.AsyncOpenAI(
            api_key="-", base_url="http://drw/v1", http_client=cast(Any, self.http), max_retries=0
        )

    async def upload(self, name: str, content: bytes, purpose: Json = "assistants") -> StoredFile:
        return cast(StoredFile, await self.openai.files.create(file=(name, content), purpose=purpose))


def query(profile: Profile, sql: str, *args: object) -> list[tuple[Json, ...]]:
    """Execute a statement in the database of a profile; return its rows, if any."""
    with psycopg.connect(profile.postgres, autocommit=True) as connection:
        cursor = connection.execute(sql, args)
        return cursor.fetchall() if cursor.description else []


def routes_of(host: Host) -> list[Route]:
    """Return the HTTP routes of the documents service."""
    return [route for route in host._scopes["documents"].routes if isinstance(route, Route)]


def error_body(error: openai.APIStatusError) -> dict[str, str]:
    """Return the error object of a response, in OpenAI's format."""
    assert isinstance(error.body, dict)
    return error.body


class Platform:
    def __init__(self, host: Host) -> None:
        self.host = host
        self._desks: list[Desk] = []

    def desk(self, name: str = "research", scopes: str = "documents:read documents:write") -> Desk:
        self._desks.append(Desk(self.host, name, scopes))
        return self._desks[-1]

    def service(self, name: str) -> Any:
        """Return a running service; a test may replace its methods."""
        return self.host._servicers[name]

    async def close(self) -> None:
        for desk in self._desks:
            await desk.http.aclose()


@asynccontextmanager
async def queue_with_job(
    platform: Platform, profile: Profile, report: bytes
) -> AsyncIterator[tuple[JobQueue, Database, str]]:
    """Yield a job queue with one job, its database, and the id of the file."""
    desk = platform.desk()
    file = await desk.upload("report.pdf", report)
    await desk.openai.vector_stores.create(name="c", file_ids=[file.id])
    database = Database(profile.postgres, "documents")
    await database.start("drw.rag.documents")
    yield JobQueue(database, platform.host.audit("documents")), database, file.id
    await database.stop()


@asynccontextmanager
async def running(profile: Profile, services: list[str] = SERVICES) -> AsyncIterator[Platform]:
    async with hosted(profile, services) as host:
        platform = Platform(host)
        try:
            yield platform
        finally:
            await platform.close()
