"""Supervisor of a local platform: starts processes in order, replaces dead or hung ones, stops them in order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drw.agent.delivery import envoy
from drw.kernel.errors import DrwError
from drw.kernel.rpc import start_times
from drw.kernel.rpc.transport import Channels
from drw.kernel.runtime.settings import Profile, SettingLayers
from drw.kernel.runtime.status import report
from drw.local import first_key, weights
from drw.local.paths import PlatformPaths
from drw.local.platform import process_specs
from drw.local.preflight import check_port, check_space, locked
from drw.local.processes.child_process import ChildProcess, ProcessFailed, ProcessState

HEALTHY_SECONDS = 20
KEPT = ("credentials", "usage.json")
"""Upstream credentials and the position in the usage log, in Envoy's folder: a start keeps them."""

Say = Callable[[str], None]


class Supervisor:
    """The local platform of one data folder."""

    def __init__(self, layout: PlatformPaths, listen: str, say: Say) -> None:
        self._layout = layout
        self._listen = listen
        self._say = say
        self._children: dict[str, ChildProcess] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._stop_requested = asyncio.Event()
        self._failed = ""
        self._ready = False
        self._new_key = False
        self._channels = Channels()
        self._profile: Profile | None = None
        """What runs: the files may say something else by now, or be wrong."""

    async def run(self, on_ready: Callable[[dict[str, Any]], None]) -> None:
        """Start all processes, call `on_ready` with the status, and return after a requested stop.

        Raises:
            DrwError: the platform could not start; no process is left running.
        """
        with locked(self._layout):
            self._handle_signals()
            control = await asyncio.start_unix_server(self._answer, str(self._layout.control))
            try:
                await self._unless_asked_to_stop(self._start())
                if not self._stop_requested.is_set():
                    self._ready = True
                    on_ready(await self._status())
                await self._stop_requested.wait()
            except DrwError as error:
                self._failed = error.message
                raise
            finally:
                await self._stop()
                control.close()
                self._layout.control.unlink(missing_ok=True)

    async def _start(self) -> None:
        check_space(self._layout)
        self._layout.write_profile(self._listen)
        self._layout.make_secrets()
        profile = self._profile = SettingLayers(self._layout.files).profile()
        self._listen = envoy.plane(profile).listen  # the operator's own settings may name another address
        self._layout.operators.unlink(missing_ok=True)  # of an earlier start; `drw` would connect to it
        check_port(self._listen)
        await self._make_weights()
        forget_last_good(envoy.plane(profile).folder)
        for spec in process_specs(self._layout, profile, self._channels):
            self._children[spec.name] = ChildProcess(spec, self._layout.log(spec.name), self._say, self._measure_starts)
        begun = {name: asyncio.Event() for name in self._children}
        async with asyncio.TaskGroup() as group:
            for child in self._children.values():
                group.create_task(self._start_one(child, begun))
        works = [work for child in self._children.values() for work in (child.keep(), child.watch())]
        self._keepers = [asyncio.create_task(work) for work in works]
        self._new_key = await first_key.ensure(self._layout, profile, self._channels)
        await self._until_healthy()

    async def _until_healthy(self) -> None:
        """Wait a limited time for services that become ready after their process; the status shows what is missing."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HEALTHY_SECONDS):
                while True:
                    if (await self._status())["healthy"]:
                        return
                    await asyncio.sleep(0.2)

    async def _start_one(self, child: ChildProcess, begun: dict[str, asyncio.Event]) -> None:
        for name in child.spec.needs:
            await begun[name].wait()
        self._say(f"starting {child.spec.title}")
        await child.start()
        begun[child.spec.name].set()

    def _measure_starts(self) -> None:
        """Record the start-up time of each process, which `Retry-After` is based on."""
        measured = {name: child.took for name, child in self._children.items() if child.took}
        with contextlib.suppress(OSError):  # a full disk is reported elsewhere
            start_times.write_start_times(self._layout.starts, measured)

    async def _make_weights(self) -> None:
        if weights.present(self._layout.weights):
            return
        self._say("making the models' files (once)")
        making = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "drw.local.weights", str(self._layout.weights)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert making.stdout is not None, "asked for above"
        line = b""
        try:
            async for line in making.stdout:
                self._say(line.decode(errors="replace").rstrip())
            if await making.wait() != 0:
                raise ProcessFailed(f"the models' files could not be made: {line.decode(errors='replace').strip()}")
        finally:
            if making.returncode is None:
                making.kill()

    async def _unless_asked_to_stop(self, work: Any) -> None:
        work_task = asyncio.create_task(work)
        stop_task = asyncio.create_task(self._stop_requested.wait())
        await asyncio.wait([work_task, stop_task], return_when=asyncio.FIRST_COMPLETED)
        stop_task.cancel()
        if not work_task.done():
            work_task.cancel()
        try:
            await work_task
        except asyncio.CancelledError:
            return
        except BaseExceptionGroup as group:
            if (ours := group.subgroup(DrwError)) is None:
                raise
            raise first(ours) from None

    async def _stop(self) -> None:
        if self._ready:
            self._say("stopping")
        for turn in sorted({child.spec.stops for child in self._children.values()}, reverse=True):
            together = [child for child in self._children.values() if child.spec.stops == turn]
            await asyncio.gather(*(child.stop() for child in together))
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await self._channels.close()

    def _handle_signals(self) -> None:
        def asked() -> None:
            if self._stop_requested.is_set():  # a second request stops at once
                for child in self._children.values():
                    child.kill(signal.SIGKILL)
            self._stop_requested.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, asked)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            match (await reader.readline()).decode().strip():
                case "status":
                    writer.write(json.dumps(await self._status()).encode() + b"\n")
                case "stop":
                    self._stop_requested.set()
                    writer.write(b"{}\n")
            await writer.drain()
            writer.close()

    async def _status(self) -> dict[str, Any]:
        services = []
        running = bool(self._keepers)
        if self._profile is not None and running:
            services = [
                {"name": s.name, "cluster": s.cluster, "state": s.State.Name(s.state).lower(), "detail": s.detail}
                for s in await report(self._profile, self._channels)
            ]
        processes = [
            {"name": n, "state": str(c.state), "pid": c.pid, "restarts": c.restarts, "detail": c.detail}
            for n, c in self._children.items()
        ]
        healthy = (
            running
            and all(p["state"] == ProcessState.READY for p in processes)
            and all(s["state"] in {"ready", "unimplemented"} for s in services)
        )
        return {
            "healthy": healthy,
            "ready": self._ready,
            "new_key": self._new_key,
            "failed": self._failed,
            "pid": os.getpid(),
            "gateway": f"http://{self._listen}",
            "data": str(self._layout.data),
            "processes": processes,
            "services": services,
        }


def forget_last_good(folder: Path) -> None:
    """Remove Envoy's last configuration, because a new start may use another port.

    Logs, the position in the usage log and the operator's upstream credentials stay.
    """
    for path in folder.iterdir() if folder.exists() else ():
        if path.name in KEPT:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix != ".log":
            path.unlink()


def first(group: BaseExceptionGroup[DrwError]) -> DrwError:
    """Return the first error of a nested exception group."""
    error = group.exceptions[0]
    return first(error) if isinstance(error, BaseExceptionGroup) else error
