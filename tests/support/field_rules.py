"""Requests that break a field rule of a contract, with the error that every transport must give."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

import httpx
import pytest
from google.protobuf.message import Message

from drw.api.contract import Client
from drw.kernel.errors import InvalidRequest
from drw.kernel.runtime.host import Host
from support.json_types import JsonObject


@dataclass(frozen=True)
class InvalidCall:
    """A call with one field that breaks a rule."""

    client: type[Client]
    method: str
    request: Message
    param: str
    message: str


@dataclass(frozen=True)
class InvalidHttpRequest:
    """A REST request with one field that breaks a rule."""

    verb: str
    path: str
    body: JsonObject | None
    param: str
    message: str


async def check_calls(host: Host, calls: Iterable[InvalidCall]) -> None:
    """Check that each call fails with the path of the field and the message."""
    for call in calls:
        with pytest.raises(InvalidRequest) as caught:
            answer = getattr(host.client(call.client), call.method)(call.request)
            if isinstance(answer, AsyncIterator):
                async for _ in answer:
                    pass
            else:
                await answer
        assert (caught.value.metadata["param"], caught.value.message) == (call.param, call.message)


async def check_http(host: Host, requests: Iterable[InvalidHttpRequest], scopes: str) -> None:
    """Check that each REST request returns 400 with the path of the field and the message."""
    headers = {"x-drw-key": "key_1", "x-drw-org": "acme", "x-drw-desk": "research", "x-drw-scopes": scopes}
    transport = httpx.ASGITransport(app=host.app())
    async with httpx.AsyncClient(transport=transport, base_url="http://drw", headers=headers) as http:
        for request in requests:
            response = await http.request(request.verb, request.path, json=request.body)
            error = response.json()["error"]
            assert (response.status_code, error["param"], error["message"]) == (400, request.param, request.message)
