"""One call of the Responses API: chain, search, model call, output, and the record that is stored of it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import orjson

from drw.kernel.errors import DrwError, Unavailable
from drw.kernel.rpc.context import caller
from drw.kernel.storage.database import Connection
from drw.models.serving.errors import NotSupported
from drw.models.serving.experiments.calls import expose, units_of
from drw.models.serving.http.endpoints import MAX_SESSION
from drw.models.serving.metering.budget_gate import Headers
from drw.models.serving.observability.call_record import REJECTED, CallRecord
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
from drw.routing.experiments.exposures import Assigned
from drw.routing.experiments.routing_table import CallKind


class ResponseCalls:
    """Starts calls."""

    def __init__(
        self, runner: RequestRunner, store: ResponseStore, files: FileSearch, settings: ResponseSettings
    ) -> None:
        self._runner = runner
        self._store = store
        self._files = files
        self._settings = settings

    async def start(
        self,
        record: CallRecord,
        *,
        session: str = "",
        document: str = "",
        headers: Headers | None = None,
        background: bool = False,
    ) -> ResponseCall:
        """Return the call of the request of a record; its model is called when its chunks are read.

        `session`, `document`, `headers` and `background` are those of `RequestRunner.start`, which raises most errors,
        and:
            NotFound: the previous response, or a vector store, does not exist for the caller.
            NotSupported: responses are not stored, or `background` is set and the request streams.
        """
        request = parse_request(CreateResponse, record.request)
        if background and request.stream:
            raise NotSupported("stream", "leave it out: a batch stores complete responses")
        stored = self._is_stored(request)
        chain = await self._chain(request)
        items = objects.input_items(request)
        conversation = [*chain.items, *items]
        id_ = objects.new_id("resp")
        kind = CallKind(retrieves=request.file_search is not None)
        units = units_of(request, session, document, id_)
        assigned = self._runner.experiments.assign(request.model, kind, units)
        found = await self._search(request, conversation, assigned, record)
        answer, chunks = await self._runner.start(
            "chat/completions",
            to_chat(request, conversation, found.sources() if found and found.shown else ""),
            record,
            model=request.model,
            stream=bool(request.stream),
            session=(session or request.session)[:MAX_SESSION],
            headers=headers,
            background=background,
            answer_id=id_,
            assigned=assigned,
        )
        response = objects.new_response(request, id_, int(time.time()), store=stored)
        response["model"] = answer.model
        search = found.item(with_results=RESULTS in (request.include or ())) if found else None
        events = Events()
        output = Output(events, search, found.annotations if found else lambda text: [])
        store = self._store if stored else None
        return ResponseCall(request, response, answer, chunks, output, events, store, chain, items)

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

    async def _search(
        self, request: CreateResponse, items: list[Item], assigned: Assigned, record: CallRecord
    ) -> SearchResult | None:
        if (tool := request.file_search) is None:
            return None
        try:
            return await self._files.search(tool, last_question(items), assigned.search)
        except REJECTED:  # the caller's mistake, in every arm
            raise
        except DrwError:
            if assigned.assignment:
                expose(assigned.assignment, record, None)
            raise


@dataclass
class ResponseCall:
    """One call. Close `chunks` at its end."""

    request: CreateResponse
    response: Response
    """The response: in progress, and complete after `end`."""
    answer: Answer
    chunks: AsyncGenerator[Chunk, None]
    output: Output
    events: Events
    store: ResponseStore | None
    """Where the response is stored; None: the request does not ask for it."""
    chain: Chain
    items: list[Item]

    async def begin(self) -> None:
        """Store the response in progress, before the model is called; raises as `ResponseStore.begin` does."""
        if self.store:
            await self.store.begin(caller(), self.chain, self.items, self.response)

    async def finish(self, connection: Connection | None = None) -> Response:
        """Store the complete response and return it; with a connection as part of its transaction."""
        status, details = objects.outcome(self.answer)
        self.response |= {
            "status": status,
            "incomplete_details": details,
            "model": self.answer.model,
            "output": self.output.items(self.answer, status),
            "usage": objects.usage(self.answer),
            "completed_at": int(time.time()) if status == objects.COMPLETED else None,
        }
        if self.store:
            await self.store.finish(caller(), self.response, connection)
        return self.response

    async def run(self, record: CallRecord, write: Callable[[Connection, bytes], Awaitable[None]]) -> None:
        """Call the model without a client; the response, what `write` does with it and the charge are one commit."""

        async def commit(connection: Connection) -> None:
            await write(connection, orjson.dumps(await self.finish(connection)))

        record.in_commit = commit
        try:
            await self.begin()
            async for _ in self.chunks:
                pass
        except BaseException:
            if self.store:
                with suppress(Unavailable):  # then it stays in progress, and counts as failed when it is read
                    await self.store.discard_unfinished(caller(), self.response["id"])
            raise
        finally:
            await self.chunks.aclose()
