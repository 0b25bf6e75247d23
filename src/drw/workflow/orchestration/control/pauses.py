"""Holds the executor of a paused run before its next step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from drw.kernel.errors import DrwError
from drw.kernel.storage.database import Connection
from drw.workflow.orchestration.execution.journal import signals
from drw.workflow.orchestration.execution.journal.signals import Signals

T = TypeVar("T")


class RunPaused(DrwError):
    """The run, or one above it, is paused. Nothing was recorded."""


async def check_not_paused(connection: Connection, run: str) -> None:
    """Raise `RunPaused` if a locked run, or one above it, is paused."""
    cursor = await connection.execute("select run_is_paused(%s) as is_paused", (run,))
    if (await cursor.fetchone() or {}).get("is_paused"):
        raise RunPaused(f"the run {run!r} is paused")


async def once_resumed(notifications: Signals, function: Callable[[], Awaitable[T]]) -> T:
    """Return the result of a function; while it raises `RunPaused`, wait and call it again."""
    while True:
        event = notifications.next()
        try:
            return await function()
        except RunPaused:
            await signals.wait(event, signals.MAX_SLEEP_SECONDS)
