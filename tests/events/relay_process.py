"""Relays that are killed: `relay_process.py run` relays until it is killed; `lines` is killed once at each line.

The profile is on standard input. `lines` publishes new events before each relay, and prints how many in total.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
from types import FrameType
from typing import Any

from drw.api.events.v1.workflows_pb2 import RunEnded
from drw.events.connection import connect
from drw.events.publisher import Publisher
from drw.events.relay import OutboxRelay
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.database import Database
from drw.kernel.tenancy import Owner

TRACED = ("drw/events/relay.py", "drw/events/adapters/")
KEYS = 4
EVENTS = 12


async def publish(database: Database, key: str, number: int) -> None:
    """Publish an event in a transaction."""
    with acting_for(Principal("acme", "research", "key_1")):
        async with database.transaction() as connection:
            event = RunEnded(run=key, error=str(number))
            await Publisher("orchestration").publish(connection, event, f"run/{key}", Owner("acme", "research"))


async def run(profile: Profile) -> None:
    """Relay until killed."""
    database = Database(profile.postgres, "test")
    await database.start("drw.events")
    relay = OutboxRelay(database, connect(profile))
    print("started", flush=True)
    await asyncio.gather(relay.listen(), relay.run())


async def relay_once(profile: Profile, first: int, kill_at: int) -> None:
    """Publish events, then relay them; die at the line number `kill_at` of those that run."""
    database = Database(profile.postgres, "test")
    await database.start("drw.events")
    for number in range(first, first + EVENTS):
        await publish(database, f"key-{number % KEYS}", number)
    lines: set[tuple[str, int]] = set()

    def trace(frame: FrameType, kind: str, _: Any) -> Any:
        file = frame.f_code.co_filename
        if not any(name in file for name in TRACED):
            return None
        if kind == "line":
            lines.add((file, frame.f_lineno))
            if len(lines) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    relay = OutboxRelay(database, connect(profile))
    sys.settrace(trace)
    while await relay.relay_batch():
        pass
    sys.settrace(None)


def at_each_line(profile: Profile) -> int:
    """Run a relay for each line, in a process of its own; return the number of published events."""
    importlib.import_module(f"drw.events.adapters.{profile.bus.adapter}")  # once, and not in each process
    total = 0
    for kill_at in range(1, 1000):
        child = os.fork()
        if child == 0:
            asyncio.run(relay_once(profile, total, kill_at))
            os._exit(0)
        total += EVENTS
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            print(f"killed at {kill_at - 1} lines", file=sys.stderr)
            return total
        assert os.WTERMSIG(status) == signal.SIGKILL
    raise AssertionError("the relay does not end")


if __name__ == "__main__":
    profile_ = Profile.model_validate_json(sys.stdin.read())
    if sys.argv[1] == "run":
        asyncio.run(run(profile_))
    else:
        print(at_each_line(profile_))
