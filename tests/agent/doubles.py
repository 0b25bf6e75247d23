"""Doubles of what is around a data plane: the models, the request router, a collector of traces."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from drw.api.gateway.v1.request_router_pb2 import (
    Configuration,
    ConfigurationReport,
    ReportConfigurationResponse,
    WatchConfigurationRequest,
)
from drw.api.gateway.v1.request_router_rpc import RequestRouter
from support.parts import until

NOT_YET = re.compile("does not answer|not applied the configuration yet")


class DoubleModels:
    """Answers every path with what it got; a stream goes on only when the test says so."""

    def __init__(self) -> None:
        self.go_on = asyncio.Semaphore(0)
        self.streams = 0
        """How many are under way."""
        self.app = Starlette(routes=[Route("/{path:path}", self._answer, methods=["GET", "POST", "DELETE"])])

    async def _answer(self, request: Request) -> Response:
        body = await request.body()
        if request.url.path == "/v1/never":
            await asyncio.Event().wait()
        if b'"never"' in body:
            await asyncio.Event().wait()
        found = re.search(rb'"answering": "(\w+)"', body)
        model = found[1].decode() if found else request.headers.get("x-model")
        said = {"x-drw-model": model} if model else {}
        if b'"endless"' in body:
            return StreamingResponse(self._endless(b'"quiet"' in body), media_type="text/event-stream", headers=said)
        if b'"stream"' in body:
            return StreamingResponse(self._events(), media_type="text/event-stream")
        echo = {"headers": dict(request.headers), "bytes": len(body), "path": request.url.path}
        return JSONResponse(echo, headers=said)

    async def _endless(self, quiet: bool) -> AsyncIterator[str]:
        self.streams += 1
        try:
            while True:
                yield "data: on\n\n"
                await (asyncio.Event().wait() if quiet else asyncio.sleep(0.01))
        finally:
            self.streams -= 1

    async def _events(self) -> AsyncIterator[str]:
        for number in range(5):
            await self.go_on.acquire()
            yield f"data: {number}\n\n"


class DoubleRouter(RequestRouter):
    """Wants whatever the test says, and keeps what the agent reports."""

    def __init__(self) -> None:
        self._news = asyncio.Condition()
        self._wanted: Configuration | None = None
        self.reports: list[ConfigurationReport] = []

    async def want(self, wanted: Configuration) -> ConfigurationReport:
        """Want this from now on; return what the agent says of it in the end."""
        async with self._news:
            self._wanted = wanted
            self.reports.clear()
            self._news.notify_all()

        async def told() -> bool:
            return any(r.version == wanted.version and NOT_YET.search(r.error) is None for r in self.reports)

        await until(told, f"a report of version {wanted.version}")
        return self.reports[-1]

    async def watch_configuration(self, request: WatchConfigurationRequest, /) -> AsyncIterator[Configuration]:
        seen = None
        while True:
            async with self._news:
                while self._wanted is seen or self._wanted is None:
                    await self._news.wait()
                seen = self._wanted
            yield seen

    async def report_configuration(self, request: ConfigurationReport, /) -> ReportConfigurationResponse:
        self.reports.append(request)
        return ReportConfigurationResponse()


class DoubleCollector:
    """Takes traces as one body of bytes, as a collector would."""

    def __init__(self) -> None:
        self.got = b""
        self.app = Starlette(routes=[Route("/v1/traces", self._take, methods=["POST"])])

    async def _take(self, request: Request) -> Response:
        self.got += await request.body()
        return Response(b"")
