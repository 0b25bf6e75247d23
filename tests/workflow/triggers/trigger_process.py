"""Processes that receive events and start runs, and kill or freeze themselves before a given statement.

`kill FILE`: for each number n, a process receives the n-th event and kills itself before its n-th statement or commit,
and another process receives the event again; until a process reaches the end. `stop FILE TEXT`: one process, which
stops itself before the first statement that contains the text. FILE is a profile in JSON.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from pathlib import Path

from drw.kernel.rpc.context import Principal
from drw.kernel.runtime.settings import Profile
from workflow.schedules.scheduler_process import signal_before_statement
from workflow.triggers.triggering import indexed, triggering

OWNER = Principal("acme", "research", "key_test")


async def receive(profile: Profile, event: int, number: int = 0, text: str = "") -> None:
    """Receive the event with this number, and start its run."""
    async with triggering(profile, OWNER, max_open_runs=1000) as t:
        numbers = itertools.count(1)
        if number:
            signal_before_statement(signal.SIGKILL, lambda _: next(numbers) == number)
        if text:
            signal_before_statement(signal.SIGSTOP, lambda query: text in query and next(numbers) == 1)
        await t.receive(indexed(OWNER, id=f"event-{event:03}"))


def in_process(profile: Profile, event: int, number: int = 0) -> int:
    """Receive it in a new process and return its status."""
    if (pid := os.fork()) == 0:
        asyncio.run(receive(profile, event, number))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> None:
    """Run one of the modes."""
    profile = Profile.model_validate_json(Path(sys.argv[2]).read_text())
    if sys.argv[1] == "stop":
        asyncio.run(receive(profile, 1, text=sys.argv[3]))
        return
    for number in itertools.count(1):
        if in_process(profile, number, number) == 0:
            print(number)
            return
        assert in_process(profile, number) == 0


if __name__ == "__main__":
    main()
