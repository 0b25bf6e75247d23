"""Kill list for services: rejects killed calls, and ends or pauses active work.

The request router streams changes. The last list is stored in a file, so a service that starts while the router is down
still enforces it. Data planes enforce kills as well; this is the second line of defence, and the only one for calls
without a data plane.
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
    """The call is killed; the metadata `killed` is the kind of subject, as in "desk"."""


class _Guard:
    """Active work with its principal and names; `hit` is called when a kill matches."""

    def __init__(self, principal: Principal | None, models: Callable[[], Collection[str]], workflow: str) -> None:
        self.principal = principal
        self.models = models
        self.workflow = workflow
        self.kill: Kill | None = None
        self.hit: Callable[[], object] = lambda: None


class KillList:
    """The current kill list."""

    def __init__(self, router: RequestRouterClient, file: Path) -> None:
        self._kills: dict[tuple[int, str, str], Kill] = {}
        self._guards: set[_Guard] = set()
        self._changed = asyncio.Event()
        self._watch = CachedWatch(Kills, lambda: router.watch_kills(WatchKillsRequest()), file, self._apply)

    async def follow(self) -> None:
        """Apply each change, for as long as the router answers; see `CachedWatch.follow`."""
        await self._watch.follow()

    def find(self, principal: Principal | None, models: Collection[str] = (), workflow: str = "") -> Kill | None:
        """Return a kill that stops this caller, or one of these models, or this workflow."""
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
        """Return a kill of a model that applies to this caller."""
        kills = (self._kills.get((Kill.MODEL, org, model)) for org in _orgs(principal))
        return next((kill for kill in kills if kill), None)

    def check(self, principal: Principal | None, models: Collection[str] = (), workflow: str = "") -> None:
        """Raise `Killed` where `find` finds something."""
        if kill := self.find(principal, models, workflow):
            raise killed(kill)

    async def lifted(self, principal: Principal, workflow: str) -> None:
        """Return once nothing stops this caller or workflow."""
        while self.find(principal, workflow=workflow):
            await self._changed.wait()

    @contextmanager
    def ending(self, principal: Principal | None, models: Callable[[], Collection[str]]) -> Iterator[None]:
        """Run the block, and raise `Killed` in it when a kill matches. The block must not await its caller.

        `models` is called at each kill, since the model can change during failover.
        """
        task = asyncio.current_task()
        assert task is not None
        with self._guarded(_Guard(principal, models, "")) as guard:
            guard.hit = task.cancel
            try:
                yield
            except asyncio.CancelledError:
                if guard.kill and task.uncancel() == 0:
                    raise killed(guard.kill) from None
                raise

    async def unless_killed(self, principal: Principal, workflow: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return the result of the work; cancel it and raise `Killed` when a kill matches."""
        own = asyncio.current_task()
        assert own is not None
        with self._guarded(_Guard(principal, tuple, workflow)) as guard:
            task = asyncio.create_task(work())
            guard.hit = task.cancel
            try:
                return await task
            except asyncio.CancelledError:
                if guard.kill is not None and not own.cancelling():
                    raise killed(guard.kill) from None
                raise

    async def each(
        self, principal: Principal, models: Callable[[], Collection[str]], items: AsyncGenerator[T, None]
    ) -> AsyncGenerator[T, None]:
        """Yield the items, which are closed at the end; raise `Killed` as soon as a kill names them."""
        queue: asyncio.Queue[tuple[T] | Exception | None] = asyncio.Queue(1)
        with self._guarded(_Guard(principal, models, "")) as guard:
            # In a task of its own, which alone is ended: whoever reads may be at something else meanwhile.
            pump = asyncio.create_task(_pump(items, queue, guard))
            guard.hit = pump.cancel
            try:
                while (item := await queue.get()) is not None:
                    if isinstance(item, Exception):
                        raise item
                    yield item[0]
            finally:
                pump.cancel()
                await asyncio.gather(pump, return_exceptions=True)

    @contextmanager
    def _guarded(self, guard: _Guard) -> Iterator[_Guard]:
        self.check(guard.principal, guard.models(), guard.workflow)
        self._guards.add(guard)
        try:
            yield guard
        finally:
            self._guards.discard(guard)

    def _apply(self, kills: Kills) -> None:
        self._kills = {(kill.subject, kill.org, kill.name): kill for kill in kills.kills}
        for guard in list(self._guards):
            if guard.kill is None and (kill := self.find(guard.principal, guard.models(), guard.workflow)):
                guard.kill = kill
                guard.hit()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _orgs(principal: Principal | None) -> tuple[str, ...]:
    """Return the orgs whose kills of models and workflows apply to this caller; empty string: every org."""
    return ("", principal.org) if principal and principal.org else ("",)


def killed(kill: Kill) -> Killed:
    """Return the error of a kill."""
    what = Kill.Subject.Name(kill.subject).lower()
    message = f"the {what} {kill.name!r} is stopped by a kill switch; `drw kill list` says since when, why and by whom"
    return Killed(message, code=CODE, killed=what)


async def _pump(
    items: AsyncGenerator[T, None], queue: asyncio.Queue[tuple[T] | Exception | None], guard: _Guard
) -> None:
    end: Exception | None = None
    try:
        async with aclosing(items):
            async for item in items:
                await queue.put((item,))
    except asyncio.CancelledError:
        if guard.kill is None:
            raise
        end = killed(guard.kill)
    except Exception as error:  # noqa: BLE001 - whatever it is, the reader must hear of it
        end = error
    await queue.put(end)
