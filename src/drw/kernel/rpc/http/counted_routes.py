"""Counts the outcome of each HTTP request to a service, for its service level objective."""

from __future__ import annotations

from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from drw.kernel.errors import ClientDisconnected
from drw.kernel.observability import outcomes


def counted(route: BaseRoute, service: str) -> BaseRoute:
    """Return the route, which counts its requests from now on."""
    if isinstance(route, Route) and not isinstance(route.app, _CountedApp):
        route.app = _CountedApp(route.app, service)
    return route


class _CountedApp:
    def __init__(self, inner: ASGIApp, service: str) -> None:
        self._inner = inner
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with outcomes.counted(self._service) as outcome:

                async def send_counted(message: Message) -> None:
                    if outcome is not None and message["type"] == "http.response.start":
                        outcome.answered()
                        if message["status"] >= outcomes.SERVER_ERROR:
                            outcome.failed()
                    await send(message)

                try:
                    await self._inner(scope, receive, send_counted)
                except (ClientDisconnect, ClientDisconnected) as error:
                    raise _ClientGone(error) from error
        except _ClientGone as gone:
            raise gone.error from None


class _ClientGone(GeneratorExit):
    """Marks a request whose client has disconnected, which is not counted unless it was answered."""

    def __init__(self, error: ClientDisconnect | ClientDisconnected) -> None:
        self.error = error
