"""Two executors over one PostgreSQL: processes that tests kill, freeze, or cut from the database through a proxy."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from drw.kernel.rpc.transport import Channels
from drw.kernel.runtime.settings import Profile
from workflow.doubles import Doubles, serve_doubles, until
from workflow.test_crash import PROFILE, Process

LEASE_SECONDS = 4.0
TESTS = Path(__file__).parents[2]
_numbers = itertools.count()

SETTINGS = """
executor = "{executor}"
lease_seconds = {lease_seconds}
max_open_runs = 1000
max_active_runs_per_desk = 1000
functions = {{ record = "workflow.functions:record", nothing = "workflow.functions:nothing" }}
"""


class DatabaseProxy:
    """Forwards connections to PostgreSQL, until the network is cut."""

    def __init__(self, postgres: str, folder: Path) -> None:
        parts = conninfo_to_dict(postgres)
        self._target = f"{parts['host']}/.s.PGSQL.5432"
        self._folder = folder
        self.dsn = make_conninfo(postgres, host=str(folder))
        self._forwards = asyncio.Event()
        self._forwards.set()
        self._connections: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[DatabaseProxy]:
        """Serve during the block."""
        self._folder.mkdir()
        server = await asyncio.start_unix_server(self._serve, self._folder / ".s.PGSQL.5432")
        try:
            yield self
        finally:
            server.close()
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections)

    def cut(self) -> None:
        """Forward nothing any more. What either side sends arrives when the network is restored."""
        self._forwards.clear()

    def restore(self) -> None:
        """Forward again."""
        self._forwards.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            target_reader, target_writer = await asyncio.open_unix_connection(self._target)
            pumps = [
                asyncio.create_task(self._pump(reader, target_writer)),
                asyncio.create_task(self._pump(target_reader, writer)),
            ]
            try:
                with suppress(asyncio.CancelledError):  # the callback of the server would log it
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
                target_writer.close()
        finally:
            writer.close()
            self._connections.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                await self._forwards.wait()
                writer.write(data)
                await writer.drain()
            await self._forwards.wait()  # the end of a connection does not arrive either


class Executor(Process):
    """A workflow process with an executor name of its own."""

    def start(self) -> None:
        command = [sys.executable, "-m", "drw.kernel.runtime.process", "workflow", str(self.profile)]
        env = {**os.environ, "PYTHONPATH": str(TESTS)}
        with self.log.open("ab") as out:
            self.popen = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=env)

    async def is_idle_leader(self) -> bool:
        """Return whether it leads again and executes no run."""
        detail = await self.detail()
        return detail.startswith("leader") and ", 0 active runs" in detail


@dataclass
class Executors:
    """Executor processes, with doubles of the services that they call."""

    profile: Profile
    folder: Path
    doubles: Doubles
    channels: Channels = field(default_factory=Channels)
    processes: list[Executor] = field(default_factory=list)

    async def start(self, name: str, postgres: str = "") -> Executor:
        """Start an executor and wait until it leads."""
        base = self.folder / f"e{next(_numbers)}"
        file = base.with_suffix(".toml")
        text = PROFILE.format(
            data=self.profile.data,
            postgres=postgres or self.profile.postgres,
            valkey=self.profile.valkey,
            grpc=f"unix:{base}",
            doubles=self.doubles.address,
        )
        text = text.replace('"retrieval"]', '"retrieval", "authentication"]')
        file.write_text(text + SETTINGS.format(executor=name, lease_seconds=LEASE_SECONDS))
        executor = Executor(file, f"unix:{base}", base.with_suffix(".log"), self.channels)
        self.processes.append(executor)
        executor.start()
        await until(executor.is_leader, f"leadership of {name!r}")
        return executor

    async def stop(self) -> None:
        """Kill all."""
        for process in self.processes:
            if process.popen:
                process.send_signal(signal.SIGKILL)
                process.popen.wait()
        await self.channels.close()


@asynccontextmanager
async def executors(profile: Profile, folder: Path) -> AsyncIterator[Executors]:
    """Yield the means to start executors, and kill them at the end."""
    async with serve_doubles(profile, folder / f"f{next(_numbers)}") as doubles:
        started = Executors(profile, folder, doubles)
        try:
            yield started
        finally:
            await started.stop()
