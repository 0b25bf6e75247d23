"""The check of the first key: only a rejection by the gateway makes it invalid."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from drw.kernel.errors import Unavailable
from drw.kernel.rpc.http.server import HttpServer
from drw.local.first_key import _scopes
from support.json_types import JsonObject


@pytest.mark.parametrize(
    ("status", "body", "scopes"),
    [(200, {"scopes": ["models:read"]}, {"models:read"}), (401, {}, set()), (503, {}, None)],
)
async def test_key_is_invalid_only_if_the_gateway_rejects_it(
    status: int, body: JsonObject, scopes: set[str] | None
) -> None:
    async def handler(request: Request) -> JSONResponse:
        return JSONResponse(body, status)

    server = HttpServer(Starlette(routes=[Route("/api/v1/me", handler)]))
    url = f"http://{await server.start('127.0.0.1:0')}"
    try:
        if scopes is None:
            with pytest.raises(Unavailable, match="it answered 503"):
                await _scopes(url, "k")
        else:
            assert await _scopes(url, "k") == scopes
    finally:
        await server.stop(0)


async def test_unreachable_gateway_does_not_invalidate_the_key() -> None:
    with pytest.raises(Unavailable, match="cannot check the first key"):
        await _scopes("http://127.0.0.1:9", "k")
