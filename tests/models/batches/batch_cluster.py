"""Harness of batches: a models cluster with documents and authentication, and clients with keys on record."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import psycopg
from openai.types import Batch, FileObject

from drw.api.gateway.v1.authentication_pb2 import CreateKeyRequest, PutDeskRequest, PutOrgRequest
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.kernel.rpc.context import SCOPES, Principal, acting_for
from drw.kernel.runtime.settings import ServiceAddress
from drw.local.first_key import OPERATOR
from models.cluster import ModelsCluster
from support.parts import until

SERVICES = ("documents", "vector_store", "rate_limiting", "authentication")
NEEDED = ("models:invoke", "documents:read", "documents:write")
_numbers = itertools.count()
ENDED = ("completed", "failed", "expired", "cancelled")


def chat(custom_id: str, content: str = "plain", **body: Any) -> dict[str, Any]:
    """Return a line that chats with the double; `content` names its behaviour."""
    messages = [{"role": "user", "content": content}]
    request = {"model": "double", "messages": messages, **body}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": request}


def jsonl(lines: Iterable[Mapping[str, Any] | str]) -> bytes:
    """Return the lines of a file."""
    return "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines).encode()


@dataclass
class Desk:
    """A desk with a key on record, and its client."""

    cluster: ModelsCluster
    openai: openai.AsyncOpenAI
    principal: Principal

    async def upload(self, lines: Iterable[Mapping[str, Any] | str], name: str = "in.jsonl") -> FileObject:
        return await self.openai.files.create(file=(name, jsonl(lines)), purpose="batch")

    async def create(
        self, lines: Iterable[Mapping[str, Any] | str], endpoint: Any = "/v1/chat/completions", **options: Any
    ) -> Batch:
        """Upload a file, and create a batch of it."""
        file = await self.upload(lines)
        return await self.openai.batches.create(
            input_file_id=file.id, endpoint=endpoint, completion_window="24h", **options
        )

    async def ended(self, batch: Batch, *statuses: str) -> Batch:
        """Wait until a batch ends, or has one of these states."""

        async def has_ended() -> bool:
            nonlocal batch
            batch = await self.openai.batches.retrieve(batch.id)
            return batch.status in (statuses or ENDED)

        await until(has_ended, f"the end of {batch.id}", 60)
        return batch

    async def lines(self, file: str | None) -> list[dict[str, Any]]:
        """Return the lines of a file."""
        if file is None:
            return []
        content = await self.openai.files.content(file)
        return [json.loads(line) for line in content.text.splitlines()]

    async def results(self, batch: Batch) -> dict[str, dict[str, Any]]:
        """Return the result of each request by custom id; none occurs twice."""
        lines = [*await self.lines(batch.output_file_id), *await self.lines(batch.error_file_id)]
        results = {line["custom_id"]: line for line in lines}
        assert len(results) == len(lines), "a custom id has several results"
        return results

    def query(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.cluster.database, autocommit=True) as connection:
            cursor = connection.execute(query.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    async def change(self, query: str, *parameters: Any) -> None:
        """Run an update in a thread: it can wait for a transaction of this event loop."""
        await asyncio.to_thread(self.query, query, *parameters)

    async def until_row(self, query: str, what: str, *parameters: Any) -> None:
        async def exists() -> bool:
            return bool(self.query(query, *parameters))

        await until(exists, what)


class BatchCluster:
    """A running cluster, which makes desks."""

    def __init__(self, cluster: ModelsCluster) -> None:
        self.cluster = cluster
        self._authentication = cluster.host.client(AuthenticationClient)

    @asynccontextmanager
    async def worker(self, **batches: Any) -> AsyncIterator[subprocess.Popen[bytes]]:
        """Run a replica of serving in its own process, which is killed at the end of the block."""
        profile = self.cluster.host.profile
        main = profile.processes["rag"].grpc.removesuffix(".r")
        file = Path(f"{main.removeprefix('unix:')}w{next(_numbers)}.json")
        address = ServiceAddress(services=(*SERVICES,), grpc=f"{main}.g", http="")
        services = profile.services | {"serving": profile.services["serving"] | {"batches": batches}}
        replica = profile.model_copy(
            update={
                "data": profile.data / file.stem,
                "services": services,
                "processes": profile.processes | {"main": address},
            }
        )
        file.write_text(replica.model_dump_json())
        command = [sys.executable, "-m", "models.batches.host_process", str(file)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        with file.with_suffix(".log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:

            async def is_ready() -> bool:
                assert process.poll() is None, file.with_suffix(".log").read_text()
                return file.with_suffix(".ready").exists()

            await until(is_ready, "the replica")
            yield process
        finally:
            process.kill()
            process.wait()

    async def desk(
        self, org: str = "acme", name: str = "research", scopes: Iterable[str] = NEEDED, walls: Iterable[str] = ()
    ) -> Desk:
        """Return a client with a new key of a desk."""
        grants: dict[str, Any] = {"scopes": sorted(SCOPES), "walls": ["m-and-a", "rates"]}
        with acting_for(OPERATOR):
            await self._authentication.put_org(PutOrgRequest(name=org, **grants))
            await self._authentication.put_desk(PutDeskRequest(org=org, name=name, **grants))
        creator = Principal(org, name, "key_maker", frozenset(SCOPES), frozenset({"m-and-a", "rates"}))
        with acting_for(creator):
            request = CreateKeyRequest(desk=name, name="tests", scopes=list(scopes), walls=list(walls))
            key = (await self._authentication.create_key(request)).key
        principal = Principal(org, name, key.id, frozenset(scopes), frozenset(walls))
        return Desk(self.cluster, client_of(self.cluster, principal), principal)


def client_of(cluster: ModelsCluster, principal: Principal) -> openai.AsyncOpenAI:
    """Return the official client, with the headers that the data plane sets for a caller."""
    headers = {
        "x-drw-key": principal.key,
        "x-drw-org": principal.org,
        "x-drw-desk": principal.desk,
        "x-drw-scopes": " ".join(sorted(principal.scopes)),
        "x-drw-walls": " ".join(sorted(principal.walls)),
    }
    return cluster.client.with_options(default_headers=headers)


@asynccontextmanager
async def batch_cluster(start: Callable[..., Any], **options: Any) -> AsyncIterator[BatchCluster]:
    """Start a cluster with all that batches need."""
    async with start(more=SERVICES, **options) as cluster:
        yield BatchCluster(cluster)
