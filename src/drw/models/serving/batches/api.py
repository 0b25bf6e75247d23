"""OpenAI's Batch API: `/v1/batches`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc import context
from drw.kernel.rpc.http.request_models import StrictModel, read_model
from drw.kernel.rpc.http.server import read_body
from drw.kernel.validation import check_choice
from drw.models.serving.batches.endpoints import BatchEndpoint
from drw.models.serving.batches.files import PURPOSE, BatchFiles
from drw.models.serving.batches.permissions import PresentPermissions
from drw.models.serving.batches.store import BatchStore

INVOKE = "models:invoke"
MAX_BODY_BYTES = 1 << 20
DEFAULT_PAGE, MAX_PAGE = 20, 100
MAX_KEYS, MAX_KEY_LENGTH, MAX_VALUE_LENGTH = 16, 64, 512
MAX_IDEMPOTENCY_KEY = 255


def _check_metadata(pairs: dict[str, str]) -> dict[str, str]:
    if len(pairs) > MAX_KEYS:
        raise ValueError(f"must be an object of at most {MAX_KEYS} keys")
    for key, value in pairs.items():
        if not 1 <= len(key) <= MAX_KEY_LENGTH or len(value) > MAX_VALUE_LENGTH or "\0" in key + value:
            raise ValueError(
                f"has {key[:MAX_KEY_LENGTH]!r}: a key has 1 to {MAX_KEY_LENGTH} characters, a value at most "
                f"{MAX_VALUE_LENGTH}, none of them NUL"
            )
    return pairs


class CreateBatch(StrictModel):
    """`POST /v1/batches`."""

    input_file_id: str
    endpoint: str
    completion_window: Literal["24h"] = "24h"
    metadata: Annotated[dict[str, str], AfterValidator(_check_metadata)] | None = None


class BatchRoutes:
    """Handlers of `/v1/batches`."""

    def __init__(
        self,
        store: BatchStore,
        files: BatchFiles,
        permissions: PresentPermissions,
        endpoints: Mapping[str, BatchEndpoint],
        max_input_bytes: int,
    ) -> None:
        self._store = store
        self._files = files
        self._permissions = permissions
        self._endpoints = endpoints
        self._max_input_bytes = max_input_bytes

    def routes(self) -> list[BaseRoute]:
        """Return the routes."""
        return [
            Route("/v1/batches", self.create, methods=["POST"]),
            Route("/v1/batches", self.list_batches, methods=["GET"]),
            Route("/v1/batches/{batch}", self.get, methods=["GET"]),
            Route("/v1/batches/{batch}/cancel", self.cancel, methods=["POST"]),
        ]

    async def create(self, request: Request) -> Response:
        """Create a batch from an uploaded file."""
        context.caller().require_scope(INVOKE)
        body = read_model(CreateBatch, await read_body(request, MAX_BODY_BYTES))
        check_choice(body.endpoint, tuple(self._endpoints), "endpoint")
        idempotency_key = request.headers.get("idempotency-key", "")
        if len(idempotency_key) > MAX_IDEMPOTENCY_KEY or not idempotency_key.isprintable():
            raise InvalidRequest(f"Idempotency-Key has at most {MAX_IDEMPOTENCY_KEY} printable characters")
        await self._permissions.check(context.caller())
        await self._check_file(body.input_file_id)
        return _json(await self._store.create(body.endpoint, body.input_file_id, body.metadata or {}, idempotency_key))

    async def list_batches(self, request: Request) -> Response:
        """Return a page of the desk's batches, newest first."""
        context.caller().require_scope(INVOKE)
        query = request.query_params
        for name in query.keys() - {"after", "limit"}:
            raise InvalidRequest(f"{name[:64]!r} is not a parameter; there are: after, limit", param=name[:64])
        limit = _limit(query.get("limit", str(DEFAULT_PAGE)))
        batches = await self._store.list(query.get("after", ""), limit + 1)
        data = [batch.body() for batch in batches[:limit]]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
        page = {"object": "list", "data": data, **ends, "has_more": len(batches) > limit}
        return Response(orjson.dumps(page), media_type="application/json")

    async def get(self, request: Request) -> Response:
        """Return a batch."""
        context.caller().require_scope(INVOKE)
        return _json(await self._store.get(request.path_params["batch"]))

    async def cancel(self, request: Request) -> Response:
        """Cancel a batch."""
        context.caller().require_scope(INVOKE)
        if (await read_body(request, MAX_BODY_BYTES)).strip() not in (b"", b"{}"):
            raise InvalidRequest("the cancellation of a batch takes no parameters")
        return _json(await self._store.cancel(request.path_params["batch"]))

    async def _check_file(self, file_id: str) -> None:
        """Raise an error if the caller cannot read the file, or if it cannot be the input of a batch."""
        if not file_id or len(file_id) > 200 or not file_id.isprintable():
            raise InvalidRequest("input_file_id is not the id of a file", param="input_file_id")
        file = await self._files.get(file_id)
        if file.purpose != PURPOSE:
            message = f"{file_id!r} has the purpose {file.purpose!r}; upload it with the purpose {PURPOSE!r}"
            raise InvalidRequest(message, param="input_file_id")
        if file.bytes > self._max_input_bytes:
            message = f"{file_id!r} has {file.bytes:,} bytes; the file of a batch has at most {self._max_input_bytes:,}"
            raise InvalidRequest(message, param="input_file_id")


def _limit(value: str) -> int:
    limit = int(value) if value.isascii() and value.isdigit() and len(value) < 6 else 0
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidRequest(f"limit is {value[:64]!r}; it can be 1 to {MAX_PAGE}", param="limit")
    return limit


def _json(batch: Any) -> Response:
    return Response(orjson.dumps(batch.body()), media_type="application/json")
