"""Processes that run the scheduler, and kill or freeze themselves before a given statement.

`kill FILE`: for each number n, a process handles the n-th hour and kills itself before its n-th statement or commit,
and another process handles what is left; until a process reaches the end. `stop FILE TEXT`: one process, which stops
itself before the first statement that contains the text. FILE is a profile in JSON.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drw.kernel.rpc.context import Principal
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.database import Connection
from workflow.schedules.scheduling import scheduling

NOBODY = Principal("", "", "", frozenset())


def signal_before_statement(sent: int, is_reached: Callable[[str], bool]) -> None:
    """Send this process a signal before a statement or commit."""

    def signalling(function: Any) -> Any:
        async def call(connection: Connection, query: str = "", *args: Any) -> Any:
            if is_reached(query):
                os.kill(os.getpid(), sent)
            return await (function(connection, query, *args) if query else function(connection))

        return call

    for name in ("execute", "commit"):
        setattr(Connection, name, signalling(getattr(Connection, name)))


async def handle(profile: Profile, hours: int, number: int = 0, text: str = "") -> None:
    """Handle everything that is due some hours after the start."""
    async with scheduling(profile, NOBODY) as s:
        s.clock.advance(hours=hours)
        numbers = itertools.count(1)
        if number:
            signal_before_statement(signal.SIGKILL, lambda _: next(numbers) == number)
        if text:
            signal_before_statement(signal.SIGSTOP, lambda query: text in query and next(numbers) == 1)
        await s.settle()


def in_process(profile: Profile, hours: int, number: int = 0) -> int:
    """Handle it in a new process and return its status."""
    if (pid := os.fork()) == 0:
        asyncio.run(handle(profile, hours, number))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> None:
    """Run one of the modes."""
    profile = Profile.model_validate_json(Path(sys.argv[2]).read_text())
    if sys.argv[1] == "stop":
        asyncio.run(handle(profile, 1, text=sys.argv[3]))
        return
    for number in itertools.count(1):
        if in_process(profile, number, number) == 0:
            print(number)
            return
        assert in_process(profile, number) == 0


if __name__ == "__main__":
    main()
