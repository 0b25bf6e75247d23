"""Routes of Anthropic's endpoints: error format, version and id of the request."""

from __future__ import annotations

from functools import partial

from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc.http.server import ERROR_RESPONSE
from drw.models.serving.anthropic.errors import REQUEST_ID, error_response

VERSION_HEADER = b"anthropic-version"
VERSIONS = ("2023-06-01", "2026-10-21")
"""Versions of Anthropic's API. They differ in sampling parameters, which are accepted in both."""
PLATFORM_REQUEST_ID = b"x-request-id"


class AnthropicRoute(Route):
    """A route with errors in Anthropic's format, and the id of the request in Anthropic's header."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, also one with a wrong method."""
        request_id = use_anthropic_format(scope)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID.encode(), request_id)]
            await send(message)

        await super().handle(scope, receive, send_with_id if request_id else send)


def use_anthropic_format(scope: Scope) -> bytes:
    """Let errors of the request have Anthropic's format; return the id of the request.

    Raises:
        InvalidRequest: the request is for a version of the API that is not supported.
    """
    headers = dict(scope["headers"])
    request_id: bytes = headers.get(PLATFORM_REQUEST_ID, b"")
    scope["state"][ERROR_RESPONSE] = partial(error_response, request_id=request_id.decode("latin-1"))
    version = headers.get(VERSION_HEADER, b"").decode("latin-1")
    if version and version not in VERSIONS:
        message = f"anthropic-version is {version[:64]!r}; supported are: {', '.join(VERSIONS)}"
        raise InvalidRequest(message, param="anthropic-version")
    return request_id
