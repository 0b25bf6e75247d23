"""Doubles of the services around a data plane: the models, the request router and a trace collector."""

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

PENDING = re.compile("does not answer|not applied the configuration yet")


class DoubleModels:
    """Echoes every request; a stream sends its next event only when the test releases it."""

    def __init__(self) -> None:
        self.next_event = asyncio.Semaphore(0)
        self.open_streams = 0
        """The number of active endless streams."""
        self.app = Starlette(routes=[Route("/{path:path}", self._answer, methods=["GET", "POST", "DELETE"])])

    async def _answer(self, request: Request) -> Response:
        body = await request.body()
        if request.url.path == "/v1/never":
            await asyncio.Event().wait()
        if b'"never"' in body:
            await asyncio.Event().wait()
        match = re.search(rb'"answering": "(\w+)"', body)
        model = match[1].decode() if match else request.headers.get("x-model")
        headers = {"x-drw-model": model} if model else {}
        if b'"endless"' in body:
            return StreamingResponse(self._endless(b'"quiet"' in body), media_type="text/event-stream", headers=headers)
        if b'"stream"' in body:
            return StreamingResponse(self._events(), media_type="text/event-stream")
        echo = {"headers": dict(request.headers), "bytes": len(body), "path": request.url.path}
        return JSONResponse(echo, headers=headers)

    async def _endless(self, quiet: bool) -> AsyncIterator[str]:
        self.open_streams += 1
        try:
            while True:
                yield "data: on\n\n"
                await (asyncio.Event().wait() if quiet else asyncio.sleep(0.01))
        finally:
            self.open_streams -= 1

    async def _events(self) -> AsyncIterator[str]:
        for number in range(5):
            await self.next_event.acquire()
            yield f"data: {number}\n\n"


class DoubleRouter(RequestRouter):
    """Delivers the configuration that the test sets and records the reports of the agent."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._desired: Configuration | None = None
        self.reports: list[ConfigurationReport] = []

    async def apply(self, configuration: Configuration) -> ConfigurationReport:
        """Deliver this configuration and return the final report of the agent about it."""
        async with self._changed:
            self._desired = configuration
            self.reports.clear()
            self._changed.notify_all()

        async def is_reported() -> bool:
            return any(r.version == configuration.version and PENDING.search(r.error) is None for r in self.reports)

        await until(is_reported, f"a report of version {configuration.version}")
        return self.reports[-1]

    async def watch_configuration(self, request: WatchConfigurationRequest, /) -> AsyncIterator[Configuration]:
        sent = None
        while True:
            async with self._changed:
                while self._desired is sent or self._desired is None:
                    await self._changed.wait()
                sent = self._desired
            yield sent

    async def report_configuration(self, request: ConfigurationReport, /) -> ReportConfigurationResponse:
        self.reports.append(request)
        return ReportConfigurationResponse()


class DoubleCollector:
    """Records the traces that it receives as raw bytes."""

    def __init__(self) -> None:
        self.received = b""
        self.app = Starlette(routes=[Route("/v1/traces", self._receive, methods=["POST"])])

    async def _receive(self, request: Request) -> Response:
        self.received += await request.body()
        return Response(b"")
