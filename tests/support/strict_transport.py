"""Transport for tests that finds messages shared between services, and calls that are not idempotent."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from google.protobuf.message import Message

from drw.api.contract import Method, Transport


class StrictTransport:
    """Serialises the messages of in-process calls, and repeats every idempotent call."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner

    async def unary(self, method: Method, request: Message, timeout: float | None) -> Message:
        if method.safe:
            await self._inner.unary(method, _copy(request), timeout)
        return _copy(await self._inner.unary(method, _copy(request), timeout))

    async def stream(self, method: Method, request: Message, timeout: float | None) -> AsyncGenerator[Message, None]:
        async for response in self._inner.stream(method, _copy(request), timeout):
            yield _copy(response)


def _copy(message: Message) -> Message:
    return type(message).FromString(message.SerializeToString())
