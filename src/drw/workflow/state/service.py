"""State: streams run events to watchers."""

from __future__ import annotations

from collections.abc import AsyncIterator

from drw.api.workflow.v1 import state_rpc as contract
from drw.api.workflow.v1.state_pb2 import PublishRunEventResponse, RunEvent, WatchRunRequest
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc import context
from drw.kernel.runtime.host import ServiceContext
from drw.workflow.state.event_log import EventLog
from drw.workflow.state.event_subscription import EventSubscriptions
from drw.workflow.state.ports import LiveView, RunKey
from drw.workflow.state.settings import Settings

MAX_NUMBER = 1_000_000


class State(contract.State):
    """Serves `drw.api.workflow.v1.State`."""

    def __init__(self, views: EventSubscriptions) -> None:
        self._views = views

    async def watch_run(self, request: WatchRunRequest, /) -> AsyncIterator[RunEvent]:
        """Yield past and new events of a run that the caller may read, until it ends."""
        caller = context.caller()
        key = RunKey(caller.org, caller.desk, _named("run", request.run))
        async for event in self._views.watch(key, caller, _number(request.last_event_id or "0", "last_event_id")):
            yield event

    async def publish_run_event(self, request: RunEvent, /) -> PublishRunEventResponse:
        """Store an event and publish it to watchers."""
        if _number(request.event_id, "event_id") == 0:
            raise InvalidRequest("events are numbered from 1", param="event_id")
        parts = (_named(field, getattr(request, field)) for field in ("org", "desk", "run"))
        await self._views.publish(RunKey(*parts), request)
        return PublishRunEventResponse()


def _named(field: str, value: str) -> str:
    if not value or len(value) > 200:
        raise InvalidRequest(f"{field} must have 1 to 200 characters, not {len(value)}", param=field)
    return value


def _number(text: str, field: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 7 or int(text) > MAX_NUMBER:
        raise InvalidRequest(f"{field} is {text[:40]!r}; it must be the number of an event", param=field)
    return int(text)


async def build(scope: ServiceContext) -> State:
    """Build the service from its settings."""
    settings = scope.settings(Settings)
    view = scope.make_adapter(LiveView, "valkey", {"url": scope.profile.valkey})  # type: ignore[type-abstract]
    scope.on_stop(view.close)

    async def describe() -> str:
        await view.ping()
        return "live view in Valkey"

    scope.describe(describe)
    return State(EventSubscriptions(view, EventLog(await scope.database()), settings))
