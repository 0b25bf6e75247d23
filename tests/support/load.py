"""Mixed load on a platform: calls of each kind in sequence, with their outcomes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

from support.json_types import JsonObject

MODEL = "smollm2-135m-instruct"
SECONDS = 60.0

Call = Callable[[httpx.AsyncClient, int], Awaitable[httpx.Response]]
"""Makes one call, with a client and a number."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of one call."""

    kind: str
    status: int
    """0: no response, because the connection ended."""
    code: str
    message: str
    retry_after: str
    started: float
    ended: float


@dataclass
class Load:
    """Outcomes of the calls so far."""

    outcomes: list[Outcome] = field(default_factory=list)

    def since(self, moment: float) -> list[Outcome]:
        """Return the calls that ended after a moment of `time.monotonic`."""
        return [outcome for outcome in self.outcomes if outcome.ended >= moment]

    async def until_each_kind_ended(self, seconds: float) -> None:
        """Wait until a call of each kind that started after now has ended, with any outcome."""
        moment, all_kinds = time.monotonic(), set(kinds(""))
        async with asyncio.timeout(seconds):
            while all_kinds - {outcome.kind for outcome in self.outcomes if outcome.started >= moment}:
                await asyncio.sleep(0.05)

    async def until_each_kind_succeeds(self, wanted: set[str], moment: float, seconds: float) -> None:
        """Wait until a call of each kind that started after a moment has succeeded."""
        async with asyncio.timeout(seconds):
            while wanted - {o.kind for o in self.outcomes if o.started >= moment and o.status == 200}:
                await asyncio.sleep(0.05)


def kinds(store: str) -> dict[str, Call]:
    """Return the calls by kind; each call gets a number that makes it unique."""
    chat = {"model": MODEL, "max_tokens": 8, "messages": [{"role": "user", "content": "Say hello."}]}

    def file(number: int) -> dict[str, tuple[str, bytes]]:
        return {"file": (f"{number}.txt", f"A desk may lose {number} dollars a day.".encode())}

    return {
        "chat": lambda web, _: web.post("/v1/chat/completions", json=chat),
        "stream": lambda web, _: web.post("/v1/chat/completions", json=chat | {"stream": True}),
        "embeddings": lambda web, n: web.post("/v1/embeddings", json={"model": "all-minilm-l6-v2", "input": f"a {n}"}),
        "models": lambda web, _: web.get("/v1/models"),
        "upload": lambda web, n: web.post("/v1/files", data={"purpose": "assistants"}, files=file(n)),
        "files": lambda web, _: web.get("/v1/files"),
        "search": lambda web, n: web.post(f"/v1/vector_stores/{store}/search", json={"query": f"loss {n}"}),
        "keys": lambda web, _: web.get("/api/v1/keys"),
        "spend": lambda web, _: web.get("/api/v1/spend"),
        "audit": lambda web, _: web.get("/api/v1/audit/records"),
        "runs": lambda web, _: web.get("/api/v1/runs"),
        "run": lambda web, n: web.post("/api/v1/runs", json={"template": "digest", "inputs": {"files": ["file_none"]}}),
    }


@asynccontextmanager
async def mixed_load(url: str, key: str, store: str) -> AsyncIterator[Load]:
    """Run one call of each kind concurrently, again and again."""
    load = Load()
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=SECONDS) as web, asyncio.TaskGroup() as tasks:
        tasks_of_kinds = [tasks.create_task(_call(load, web, kind, call)) for kind, call in kinds(store).items()]
        try:
            yield load
        finally:
            for task in tasks_of_kinds:
                task.cancel()


async def _call(load: Load, web: httpx.AsyncClient, kind: str, call: Call) -> None:
    number = 0
    while True:
        number += 1
        started = time.monotonic()
        try:
            response = await call(web, number)
            load.outcomes.append(_outcome(kind, response, started))
        except httpx.TransportError as error:
            load.outcomes.append(Outcome(kind, 0, type(error).__name__, str(error), "", started, time.monotonic()))
        await asyncio.sleep(0.1)  # the engine is shared with other calls of the test


def _outcome(kind: str, response: httpx.Response, started: float) -> Outcome:
    error: JsonObject = {}
    # A run that has failed has an `error` too.
    if response.is_error and response.headers.get("content-type", "").startswith("application/json"):
        error = response.json().get("error") or {}
    code, message = str(error.get("code", "")), str(error.get("message", ""))
    return Outcome(
        kind, response.status_code, code, message, response.headers.get("retry-after", ""), started, time.monotonic()
    )
