"""The endpoints that batches can call, by path. A new endpoint is one more entry of the table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from drw.billing.ledger.ledger import InCommit
from drw.kernel.storage.database import Connection
from drw.models.serving.errors import NotSupported
from drw.models.serving.http.embeddings import Embeddings
from drw.models.serving.moderation.moderations import POLICY, Moderation, Moderations
from drw.models.serving.observability.call_record import CallRecord
from drw.models.serving.openai.requests import ChatCompletion, Completion, Embedding, Sampling, parse_request
from drw.models.serving.ports import Endpoint
from drw.models.serving.request_runner import RequestRunner
from drw.models.serving.responses_api.calls import ResponseCalls
from drw.models.serving.routing.model_directory import ModelDirectory

Store = Callable[[Connection, bytes], Awaitable[None]]
"""Stores the body of a response as part of the transaction that charges the call."""
Run = Callable[[CallRecord, Store], Awaitable[None]]
"""Runs the request of a call record and stores its response; returns when both are committed."""
CheckModel = Callable[[str], Awaitable[object]]
"""Raises an error if the endpoint has no model of this name."""


@dataclass(frozen=True, slots=True)
class BatchEndpoint:
    """One endpoint that batches can call."""

    operation: str
    """The operation of its call records."""
    check_model: CheckModel
    run: Run
    default_model: str | None = None
    """The model of requests that name none; None: they must name one."""


def endpoints(
    models: ModelDirectory,
    runner: RequestRunner,
    responses: ResponseCalls,
    embeddings: Embeddings,
    moderations: Moderations,
) -> Mapping[str, BatchEndpoint]:
    """Return the endpoints by path."""

    async def chat(record: CallRecord, store: Store) -> None:
        await _generate(runner, "chat/completions", parse_request(ChatCompletion, record.request), record, store)

    async def completion(record: CallRecord, store: Store) -> None:
        await _generate(runner, "completions", parse_request(Completion, record.request), record, store)

    async def respond(record: CallRecord, store: Store) -> None:
        call = await responses.start(record, background=True)
        await call.run(record, store)

    async def embed(record: CallRecord, store: Store) -> None:
        record.in_commit = lambda connection: store(connection, record.response_body)
        await embeddings.respond(parse_request(Embedding, record.request), record)

    async def moderate(record: CallRecord, store: Store) -> None:
        record.in_commit = lambda connection: store(connection, record.response_body)
        await moderations.respond(parse_request(Moderation, record.request), record)

    return {
        "/v1/chat/completions": BatchEndpoint("chat", models.plan, chat),
        "/v1/completions": BatchEndpoint("completion", models.plan, completion),
        "/v1/responses": BatchEndpoint("response", models.plan, respond),
        "/v1/embeddings": BatchEndpoint("embedding", models.embedding, embed),
        "/v1/moderations": BatchEndpoint("moderation", moderations.check_model, moderate, POLICY),
    }


async def _generate(
    runner: RequestRunner, endpoint: Endpoint, request: Sampling, record: CallRecord, store: Store
) -> None:
    if request.stream:
        raise NotSupported("stream", "leave it out: a batch stores complete responses")
    answer, chunks = await runner.start(endpoint, request, record, model=request.model, stream=False, background=True)
    write: InCommit = lambda connection: store(connection, answer.body())  # noqa: E731 - a typed closure
    record.in_commit = write
    async with aclosing(chunks):
        async for _ in chunks:
            pass
