"""OpenAI's endpoints of responses: create, streamed or not; retrieve, list input items, delete, cancel."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response as HttpResponse
from starlette.routing import BaseRoute, Route

from drw.kernel.errors import DrwError, InvalidRequest, Unavailable
from drw.kernel.rpc.context import caller
from drw.models.serving.http.endpoints import DOCUMENT, INVOKE, SESSION, AuditedEndpoints
from drw.models.serving.http.responses import HttpExchange
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.responses_api import objects
from drw.models.serving.responses_api.calls import ResponseCall, ResponseCalls
from drw.models.serving.responses_api.objects import Item, Response
from drw.models.serving.responses_api.store import ResponseStore

DEFAULT_LIMIT, MAX_LIMIT = 20, 100
"""Items of one page."""


class ResponseEndpoints:
    """Serves responses."""

    def __init__(self, calls: ResponseCalls, store: ResponseStore) -> None:
        self._calls = calls
        self._store = store

    async def create(self, exchange: HttpExchange, record: CallRecord) -> None:
        """`POST /v1/responses`."""
        call = await self._calls.start(
            record,
            session=exchange.header(SESSION),
            document=exchange.header(DOCUMENT),
            headers=exchange.headers,
        )
        run = _Run(exchange, call)
        try:
            await call.begin()
            await run.send()
        finally:
            await call.chunks.aclose()

    async def retrieve(self, request: Request) -> HttpResponse:
        """`GET /v1/responses/{id}`."""
        caller().require_scope(INVOKE)
        _check_query(request, set())
        response, _ = await self._store.get(caller(), request.path_params["id"])
        return _json(response)

    async def list_input_items(self, request: Request) -> HttpResponse:
        """`GET /v1/responses/{id}/input_items`."""
        caller().require_scope(INVOKE)
        _check_query(request, {"limit", "order", "after"})
        _, items = await self._store.get(caller(), request.path_params["id"])
        return _json(_page(items, request))

    async def delete(self, request: Request) -> HttpResponse:
        """`DELETE /v1/responses/{id}`."""
        caller().require_scope(INVOKE)
        id_ = request.path_params["id"]
        await self._store.delete(caller(), id_)
        return _json({"id": id_, "object": "response", "deleted": True})

    async def cancel(self, request: Request) -> HttpResponse:
        """`POST /v1/responses/{id}/cancel`."""
        caller().require_scope(INVOKE)
        await self._store.get(caller(), request.path_params["id"])
        raise InvalidRequest("only background responses can be cancelled, and there are none: close the stream")

    def routes(self, audited: AuditedEndpoints) -> list[BaseRoute]:
        """Return the routes."""
        return [
            Route("/v1/responses", audited.endpoint("response", self.create), methods=["POST"]),
            Route("/v1/responses/{id}", self.retrieve, methods=["GET"]),
            Route("/v1/responses/{id}", self.delete, methods=["DELETE"]),
            Route("/v1/responses/{id}/input_items", self.list_input_items, methods=["GET"]),
            Route("/v1/responses/{id}/cancel", self.cancel, methods=["POST"]),
        ]


class _Run:
    """Sends one response, and stores its end if the request asks for it."""

    def __init__(self, exchange: HttpExchange, call: ResponseCall) -> None:
        self._exchange = exchange
        self._call = call
        self._sent = self._complete = False

    async def send(self) -> None:
        """Send the answer; store its end before the caller receives it."""
        try:
            if self._call.request.stream:
                await self._stream()
            else:
                async for _ in self._call.chunks:
                    pass
                await self._exchange.send_response(orjson.dumps(await self._finish()), self._call.answer.model)
        except BaseException as error:
            await self._fail(error)
            raise

    async def _stream(self) -> None:
        call, output = self._call, self._call.output
        self._exchange.error_event = self._failed_event
        async for chunk in call.chunks:
            if not self._sent:  # errors before the first chunk have their own status
                await self._exchange.start_stream(call.answer.model)
                self._sent = True
                begun = self._event("created", call.response) + self._event("in_progress", call.response)
                await self._exchange.send_event(begun + output.searched())
            if events := output.feed(chunk):
                await self._exchange.send_event(events)
        status, _ = objects.outcome(call.answer)
        events = output.end(call.answer, status)
        response = await self._finish()
        await self._exchange.end_stream(events + self._event(response["status"], response))

    async def _finish(self) -> Response:
        response = await self._call.finish()
        self._complete = True
        return response

    async def _fail(self, error: BaseException) -> None:
        """Store the failure; a response whose id the caller has not received is deleted."""
        store, response = self._call.store, self._call.response
        if not store:
            return
        with suppress(Unavailable):  # then it stays in progress, and counts as failed when it is read
            if not self._sent:
                await store.discard(caller(), response["id"])
            elif self._complete:
                pass
            elif isinstance(error, DrwError):
                await store.finish(caller(), objects.failed(response, error))
            else:
                await store.finish(caller(), response | {"status": objects.CANCELLED, "output": []})

    def _failed_event(self, error: DrwError) -> bytes:
        return self._event(objects.FAILED, objects.failed(self._call.response, error))

    def _event(self, name: str, response: Response) -> bytes:
        return self._call.events.event(f"response.{name}", response=response)


def _check_query(request: Request, supported: set[str]) -> None:
    for name in request.query_params:
        if name.removesuffix("[]") not in supported:
            raise InvalidRequest(f"{name[:64]} is not supported", param=name[:64])


def _page(items: list[Item], request: Request) -> dict[str, Any]:
    """Return a page of items as `limit`, `order` and `after` select it."""
    limit, order = request.query_params.get("limit", str(DEFAULT_LIMIT)), request.query_params.get("order", "desc")
    if not (limit.isascii() and limit.isdigit() and len(limit) < 9 and 1 <= int(limit) <= MAX_LIMIT):
        raise InvalidRequest(f"limit must be a number from 1 to {MAX_LIMIT}", param="limit")
    if order not in ("asc", "desc"):
        raise InvalidRequest("order must be asc or desc", param="order")
    ordered = items if order == "asc" else items[::-1]
    if after := request.query_params.get("after"):
        index = next((i for i, item in enumerate(ordered) if item["id"] == after), None)
        if index is None:
            raise InvalidRequest(f"after is {after[:128]!r}, which is no item of the response", param="after")
        ordered = ordered[index + 1 :]
    page = ordered[: int(limit)]
    bounds = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
    return {"object": "list", "data": page, "has_more": len(ordered) > len(page), **bounds}


def _json(value: Any) -> HttpResponse:
    return HttpResponse(orjson.dumps(value), media_type="application/json")
