"""OpenAI's endpoints of responses: create, streamed or not; retrieve, list input items, delete, cancel."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response as HttpResponse
from starlette.routing import BaseRoute, Route

from drw.kernel.errors import DrwError, InvalidRequest, Unavailable
from drw.kernel.rpc.context import caller
from drw.models.serving.errors import NotSupported
from drw.models.serving.http.endpoints import INVOKE, MAX_SESSION, SESSION, AuditedEndpoints
from drw.models.serving.http.responses import HttpExchange
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.openai.requests import parse_request
from drw.models.serving.openai.responses import Answer
from drw.models.serving.ports import Chunk
from drw.models.serving.request_runner import RequestRunner
from drw.models.serving.responses_api import objects
from drw.models.serving.responses_api.conversion import last_question, to_chat
from drw.models.serving.responses_api.file_search import FileSearch, SearchResult
from drw.models.serving.responses_api.objects import Item, Response
from drw.models.serving.responses_api.output import Events, Output
from drw.models.serving.responses_api.requests import RESULTS, CreateResponse
from drw.models.serving.responses_api.store import EMPTY, Chain, ResponseStore
from drw.models.serving.settings import ResponseSettings

DEFAULT_LIMIT, MAX_LIMIT = 20, 100
"""Items of one page."""


class ResponseEndpoints:
    """Serves responses."""

    def __init__(
        self, runner: RequestRunner, store: ResponseStore, files: FileSearch, settings: ResponseSettings
    ) -> None:
        self._runner = runner
        self._store = store
        self._files = files
        self._settings = settings

    async def create(self, exchange: HttpExchange, record: CallRecord) -> None:
        """`POST /v1/responses`."""
        request = parse_request(CreateResponse, record.request)
        stored = self._is_stored(request)
        chain = await self._chain(request)
        items = objects.input_items(request)
        conversation = [*chain.items, *items]
        found = await self._search(request, conversation)
        answer, chunks = await self._runner.start(
            "chat/completions",
            to_chat(request, conversation, found.sources() if found and found.shown else ""),
            record,
            model=request.model,
            stream=bool(request.stream),
            session=(exchange.header(SESSION) or request.session)[:MAX_SESSION],
            headers=exchange.headers,
        )
        response = objects.new_response(request, int(time.time()), store=stored)
        response["model"] = answer.model
        run = _Run(exchange, request, response, answer, found, self._store if stored else None)
        try:
            await run.begin(chain, items)
            await run.send(chunks)
        finally:
            await chunks.aclose()

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

    def _is_stored(self, request: CreateResponse) -> bool:
        if self._settings.store:
            return self._settings.store_by_default if request.store is None else request.store
        if request.store:
            raise NotSupported("store", "the operator does not store responses: send store: false")
        if request.previous_response_id is not None:
            raise NotSupported("previous_response_id", "the operator does not store responses: send all items")
        return False

    async def _chain(self, request: CreateResponse) -> Chain:
        if request.previous_response_id is None:
            return EMPTY
        return await self._store.chain(caller(), request.previous_response_id)

    async def _search(self, request: CreateResponse, items: list[Item]) -> SearchResult | None:
        if (tool := request.file_search) is None:
            return None
        return await self._files.search(tool, last_question(items))


class _Run:
    """Sends one response, and stores it if the request asks for it."""

    def __init__(
        self,
        exchange: HttpExchange,
        request: CreateResponse,
        response: Response,
        answer: Answer,
        found: SearchResult | None,
        store: ResponseStore | None,
    ) -> None:
        self._exchange = exchange
        self._request = request
        self._response = response
        self._answer = answer
        self._store = store
        self._events = Events()
        search = found.item(with_results=RESULTS in (request.include or ())) if found else None
        self._output = Output(self._events, search, found.annotations if found else lambda text: [])
        self._sent = self._complete = False

    async def begin(self, chain: Chain, items: list[Item]) -> None:
        """Store the response in progress, before the model is called; raises as `ResponseStore.begin` does."""
        if self._store:
            await self._store.begin(caller(), chain, items, self._response)

    async def send(self, chunks: AsyncGenerator[Chunk, None]) -> None:
        """Send the answer; store its end before the caller receives it."""
        try:
            if self._request.stream:
                await self._stream(chunks)
            else:
                async for _ in chunks:
                    pass
                await self._exchange.send_response(orjson.dumps(await self._finish()), self._answer.model)
        except BaseException as error:
            await self._fail(error)
            raise

    async def _stream(self, chunks: AsyncGenerator[Chunk, None]) -> None:
        self._exchange.error_event = self._failed_event
        async for chunk in chunks:
            if not self._sent:  # errors before the first chunk have their own status
                await self._exchange.start_stream(self._answer.model)
                self._sent = True
                begun = self._event("created", self._response) + self._event("in_progress", self._response)
                await self._exchange.send_event(begun + self._output.searched())
            if events := self._output.feed(chunk):
                await self._exchange.send_event(events)
        status, _ = objects.outcome(self._answer)
        events = self._output.end(self._answer, status)
        response = await self._finish()
        await self._exchange.end_stream(events + self._event(response["status"], response))

    async def _finish(self) -> Response:
        """Return the complete response, which is stored."""
        status, details = objects.outcome(self._answer)
        self._response |= {
            "status": status,
            "incomplete_details": details,
            "model": self._answer.model,
            "output": self._output.items(self._answer, status),
            "usage": objects.usage(self._answer),
            "completed_at": int(time.time()) if status == objects.COMPLETED else None,
        }
        if self._store:
            await self._store.finish(caller(), self._response)
        self._complete = True
        return self._response

    async def _fail(self, error: BaseException) -> None:
        """Store the failure; a response whose id the caller has not received is deleted."""
        if not self._store:
            return
        with suppress(Unavailable):  # then it stays in progress, and counts as failed when it is read
            if not self._sent:
                await self._store.discard(caller(), self._response["id"])
            elif self._complete:
                pass
            elif isinstance(error, DrwError):
                await self._store.finish(caller(), objects.failed(self._response, error))
            else:
                await self._store.finish(caller(), self._response | {"status": objects.CANCELLED, "output": []})

    def _failed_event(self, error: DrwError) -> bytes:
        return self._event(objects.FAILED, objects.failed(self._response, error))

    def _event(self, name: str, response: Response) -> bytes:
        return self._events.event(f"response.{name}", response=response)


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
