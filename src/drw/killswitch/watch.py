"""Kill list for services: rejects killed calls, cancels active work and pauses workflow steps.

The request router streams the list after each change. The service stores the last list in a file and enforces it after
a restart while the router is down. Data planes enforce kills first. This check also covers calls between services,
which pass no data plane.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from drw.api.gateway.v1.request_router_pb2 import Kill, Kills, WatchKillsRequest
from drw.api.gateway.v1.request_router_rpc import RequestRouterClient
from drw.kernel.cached_watch import CachedWatch
from drw.kernel.errors import Forbidden
from drw.kernel.rpc.context import Principal

T = TypeVar("T")

CODE = "killed"


class Killed(Forbidden):
    """A kill stops the call; the metadata `killed` is the kind of subject, as in "desk"."""


class _ActiveWork:
    """Work in progress with its caller, models and workflow; a kill that matches calls `cancel`."""

    def __init__(self, principal: Principal | None, models: Callable[[], Collection[str]], workflow: str) -> None:
        self.principal = principal
        self.models = models
        self.workflow = workflow
        self.kill: Kill | None = None
        self.cancel: Callable[[], object] = lambda: None


class KillList:
    """The active kills, and the work in progress that new kills cancel."""

    def __init__(self, router: RequestRouterClient, file: Path) -> None:
        self._kills: dict[tuple[int, str, str], Kill] = {}
        self._active_work: set[_ActiveWork] = set()
        self._changed = asyncio.Event()
        self._watch = CachedWatch(Kills, lambda: router.watch_kills(WatchKillsRequest()), file, self._apply)

    async def follow(self) -> None:
        """Apply each new list of the router; see `CachedWatch.follow` for errors."""
        await self._watch.follow()

    def find(self, principal: Principal | None, models: Collection[str] = (), workflow: str = "") -> Kill | None:
        """Return a kill of this caller's key or desk, of one of these models, or of this workflow; None: no kill."""
        if not self._kills:
            return None
        tenants = (
            [(Kill.KEY, principal.org, principal.key), (Kill.DESK, principal.org, principal.desk)] if principal else []
        )
        subjects = [
            *tenants,
            *((Kill.MODEL, org, model) for org in _orgs(principal) for model in models),
            *((Kill.WORKFLOW, org, workflow) for org in _orgs(principal)),
        ]
        return next((kill for subject in subjects if (kill := self._kills.get(subject))), None)

    def find_model(self, principal: Principal | None, model: str) -> Kill | None:
        """Return a kill of this model in the caller's org or in all orgs; None: no kill."""
        kills = (self._kills.get((Kill.MODEL, org, model)) for org in _orgs(principal))
        return next((kill for kill in kills if kill), None)

    def check(self, principal: Principal | None, models: Collection[str] = (), workflow: str = "") -> None:
        """Raise `Killed` if `find` returns a kill."""
        if kill := self.find(principal, models, workflow):
            raise killed_error(kill)

    async def wait_until_lifted(self, principal: Principal, workflow: str) -> None:
        """Wait until no kill stops this caller or workflow."""
        while self.find(principal, workflow=workflow):
            await self._changed.wait()

    @contextmanager
    def guard_block(self, principal: Principal | None, models: Callable[[], Collection[str]]) -> Iterator[None]:
        """Cancel the body of a `with` statement and raise `Killed` when a kill matches.

        `models` is called at each change of the list, since failover can change the model. The body is cancelled
        through its task, so it must not yield to its caller.

        Raises:
            Killed: a kill matches already, or a new one does.
        """
        task = asyncio.current_task()
        assert task is not None
        with self._registered(_ActiveWork(principal, models, "")) as work:
            work.cancel = task.cancel
            try:
                yield
            except asyncio.CancelledError:
                if work.kill and task.uncancel() == 0:
                    raise killed_error(work.kill) from None
                raise

    async def guard_call(
        self, principal: Principal, workflow: str, function: Callable[[], Coroutine[Any, Any, T]]
    ) -> T:
        """Await the function and return its result; cancel it and raise `Killed` when a kill matches."""
        caller_task = asyncio.current_task()
        assert caller_task is not None
        with self._registered(_ActiveWork(principal, tuple, workflow)) as work:
            task = asyncio.create_task(function())
            work.cancel = task.cancel
            try:
                return await task
            except asyncio.CancelledError:
                if work.kill is not None and not caller_task.cancelling():
                    raise killed_error(work.kill) from None
                raise

    async def guard_stream(
        self, principal: Principal, models: Callable[[], Collection[str]], items: AsyncGenerator[T, None]
    ) -> AsyncGenerator[T, None]:
        """Yield the items and close their generator; cancel it and raise `Killed` when a kill matches.

        `models` is called at each change of the list, since failover can change the model.
        """
        queue: asyncio.Queue[tuple[T] | Exception | None] = asyncio.Queue(1)
        with self._registered(_ActiveWork(principal, models, "")) as work:
            # A separate task, since a cancellation of the caller's task could hit code outside of this stream.
            pump = asyncio.create_task(_pump(items, queue, work))
            work.cancel = pump.cancel
            try:
                while (item := await queue.get()) is not None:
                    if isinstance(item, Exception):
                        raise item
                    yield item[0]
            finally:
                pump.cancel()
                await asyncio.gather(pump, return_exceptions=True)

    @contextmanager
    def _registered(self, work: _ActiveWork) -> Iterator[_ActiveWork]:
        """Register work for cancellation while the block runs; raise `Killed` if a kill matches already."""
        self.check(work.principal, work.models(), work.workflow)
        self._active_work.add(work)
        try:
            yield work
        finally:
            self._active_work.discard(work)

    def _apply(self, kills: Kills) -> None:
        self._kills = {(kill.subject, kill.org, kill.name): kill for kill in kills.kills}
        for work in list(self._active_work):
            if work.kill is None and (kill := self.find(work.principal, work.models(), work.workflow)):
                work.kill = kill
                work.cancel()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _orgs(principal: Principal | None) -> tuple[str, ...]:
    """Return the org fields of model and workflow kills that apply to this caller; "": kills in all orgs."""
    return ("", principal.org) if principal and principal.org else ("",)


def killed_error(kill: Kill) -> Killed:
    """Return the error for calls that this kill stops."""
    subject = Kill.Subject.Name(kill.subject).lower()
    message = (
        f"the {subject} {kill.name!r} is stopped by a kill switch; `drw kill list` says since when, why and by whom"
    )
    return Killed(message, code=CODE, killed=subject)


async def _pump(
    items: AsyncGenerator[T, None], queue: asyncio.Queue[tuple[T] | Exception | None], work: _ActiveWork
) -> None:
    """Copy the items to the queue, then their error, or None at the end."""
    end: Exception | None = None
    try:
        async with aclosing(items):
            async for item in items:
                await queue.put((item,))
    except asyncio.CancelledError:
        if work.kill is None:
            raise
        end = killed_error(work.kill)
    except Exception as error:  # noqa: BLE001 - the reader of the queue raises it
        end = error
    await queue.put(end)
