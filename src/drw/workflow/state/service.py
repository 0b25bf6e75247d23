"""State: streams run events to watchers."""

from __future__ import annotations

from collections.abc import AsyncIterator

from drw.api.workflow.v1 import state_rpc as contract
from drw.api.workflow.v1.state_pb2 import (
    DeleteRunEventsRequest,
    DeleteRunEventsResponse,
    PublishRunEventResponse,
    RunEvent,
    WatchRunRequest,
)
from drw.kernel.errors import InvalidRequest
from drw.kernel.rpc import context
from drw.kernel.runtime.host import ServiceContext
from drw.workflow.state.event_log import EventLog
from drw.workflow.state.event_subscription import EventSubscriptions
from drw.workflow.state.ports import LiveView, RunKey
from drw.workflow.state.settings import Settings


class State(contract.State):
    """Serves `drw.api.workflow.v1.State`."""

    def __init__(self, subscriptions: EventSubscriptions) -> None:
        self._subscriptions = subscriptions

    async def watch_run(self, request: WatchRunRequest, /) -> AsyncIterator[RunEvent]:
        """Yield past and new events of a run that the caller may read, until it ends."""
        caller = context.caller()
        key = RunKey(caller.org, caller.desk, request.run)
        async for event in self._subscriptions.watch(key, caller, int(request.last_event_id or 0)):
            yield event

    async def publish_run_event(self, request: RunEvent, /) -> PublishRunEventResponse:
        """Store an event and publish it to watchers."""
        if not request.event_id:  # only keep-alives, which are not published, have none
            raise InvalidRequest(
                "event_id is missing; it must be the number of an event, 1 to 1000000", param="event_id"
            )
        await self._subscriptions.publish(RunKey(request.org, request.desk, request.run), request)
        return PublishRunEventResponse()

    async def delete_run_events(self, request: DeleteRunEventsRequest, /) -> DeleteRunEventsResponse:
        """Delete the events of ended runs."""
        await self._subscriptions.delete([RunKey(run.org, run.desk, run.run) for run in request.runs])
        return DeleteRunEventsResponse()


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
