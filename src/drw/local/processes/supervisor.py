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
from drw.api.models.v1.health_pb2 import GetReportRequest
from drw.api.models.v1.health_rpc import HealthClient
from drw.kernel.errors import DrwError
from drw.kernel.rpc import start_times
from drw.kernel.rpc.json_messages import to_json
from drw.kernel.rpc.transport import Channels
from drw.kernel.runtime.mutual_tls import identities_of
from drw.kernel.runtime.settings import Profile, SettingLayers
from drw.kernel.runtime.status import report
from drw.local import first_key, weights
from drw.local.certificates import RENEWAL_SECONDS, CertificateAuthority, server_names
from drw.local.paths import PlatformPaths
from drw.local.platform import process_specs
from drw.local.preflight import check_port, check_space, locked
from drw.local.processes.child_process import ChildProcess, ProcessFailed, ProcessState

HEALTH_TIMEOUT_SECONDS = 20
MODELS_TIMEOUT_SECONDS = 5.0
KEPT = ("credentials", "usage.json")
"""Upstream credentials and the position in the usage log, in Envoy's folder: a start keeps them."""

Printer = Callable[[str], None]


class Supervisor:
    """The local platform of one data folder."""

    def __init__(self, paths: PlatformPaths, listen: str, print_line: Printer) -> None:
        self._paths = paths
        self._listen = listen
        self._print = print_line
        self._children: dict[str, ChildProcess] = {}
        self._supervision: list[asyncio.Task[None]] = []
        self._stop_requested = asyncio.Event()
        self._failed = ""
        self._started = self._ready = False
        self._new_key = False
        self._channels = Channels()
        self._profile: Profile | None = None
        """The running profile. The files may have changed since."""

    async def run(self, on_ready: Callable[[dict[str, Any]], None]) -> None:
        """Start all processes, call `on_ready` with the status, and return after a requested stop.

        Raises:
            DrwError: the platform could not start; no process is left running.
        """
        with locked(self._paths):
            self._handle_signals()
            control = await asyncio.start_unix_server(self._serve_control, str(self._paths.control))
            try:
                await self._run_unless_stopped(self._start())
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
                self._paths.control.unlink(missing_ok=True)

    async def _start(self) -> None:
        check_space(self._paths)
        self._paths.write_profile(self._listen)
        self._paths.create_secrets()
        profile = self._profile = SettingLayers(self._paths.files).profile()
        self._listen = envoy.data_plane_settings(profile).listen  # drw.toml may set another address
        self._paths.operators_socket.unlink(missing_ok=True)  # of an earlier start; `drw` would connect to it
        check_port(self._listen)
        await self._build_weights()
        remove_envoy_state(envoy.data_plane_settings(profile).folder)
        await self._prepare_identities(profile)
        for spec in process_specs(self._paths, profile, self._channels):
            self._children[spec.name] = ChildProcess(
                spec, self._paths.log(spec.name), self._print, self._record_start_times
            )
        ready_events = {name: asyncio.Event() for name in self._children}
        async with asyncio.TaskGroup() as group:
            for child in self._children.values():
                group.create_task(self._start_one(child, ready_events))
        work = [work for child in self._children.values() for work in (child.supervise(), child.monitor_liveness())]
        self._supervision += [asyncio.create_task(work) for work in work]
        self._started = True
        self._new_key = await first_key.ensure_key(self._paths, profile, self._channels)
        await self._wait_until_healthy()

    async def _prepare_identities(self, profile: Profile) -> None:
        """Issue the certificates of mutual TLS, unless the operator provides them in another folder."""
        if profile.mtls is not None and profile.mtls.folder == self._paths.certificates:
            authority, names = CertificateAuthority(profile.mtls), server_names(profile)
            await asyncio.to_thread(authority.renew, names)
            self._supervision.append(asyncio.create_task(self._renew_certificates(authority, names)))
        self._channels = Channels(identities_of(profile))

    async def _renew_certificates(self, authority: CertificateAuthority, names: dict[str, set[str]]) -> None:
        while True:
            await asyncio.sleep(RENEWAL_SECONDS)
            try:
                issued = await asyncio.to_thread(authority.renew, names)
            except OSError as error:
                self._print(f"certificates cannot be renewed: {error}")
            else:
                if issued:
                    self._print(f"renewed {len(issued)} certificates")

    async def _wait_until_healthy(self) -> None:
        """Wait a limited time for services that become ready after their process; the status shows what is missing."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HEALTH_TIMEOUT_SECONDS):
                while True:
                    if (await self._status())["healthy"]:
                        return
                    await asyncio.sleep(0.2)

    async def _start_one(self, child: ChildProcess, ready_events: dict[str, asyncio.Event]) -> None:
        for name in child.spec.depends_on:
            await ready_events[name].wait()
        self._print(f"starting {child.spec.title}")
        await child.start()
        ready_events[child.spec.name].set()

    def _record_start_times(self) -> None:
        """Record the start-up time of each process, which `Retry-After` is based on."""
        measured = {name: child.start_duration for name, child in self._children.items() if child.start_duration}
        with contextlib.suppress(OSError):  # a full disk is reported elsewhere
            start_times.write_start_times(self._paths.start_times, measured)

    async def _build_weights(self) -> None:
        if weights.present(self._paths.weights):
            return
        self._print("making the models' files (once)")
        builder = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "drw.local.weights", str(self._paths.weights)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert builder.stdout is not None, "it is a pipe"
        line = b""
        try:
            async for line in builder.stdout:
                self._print(line.decode(errors="replace").rstrip())
            if await builder.wait() != 0:
                raise ProcessFailed(f"the models' files could not be made: {line.decode(errors='replace').strip()}")
        finally:
            if builder.returncode is None:
                builder.kill()

    async def _run_unless_stopped(self, work: Any) -> None:
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
            if (errors := group.subgroup(DrwError)) is None:
                raise
            raise first_error(errors) from None

    async def _stop(self) -> None:
        if self._ready:
            self._print("stopping")
        for order in sorted({child.spec.stop_order for child in self._children.values()}, reverse=True):
            children = [child for child in self._children.values() if child.spec.stop_order == order]
            await asyncio.gather(*(child.stop() for child in children))
        for task in self._supervision:
            task.cancel()
        await asyncio.gather(*self._supervision, return_exceptions=True)
        await self._channels.close()

    def _handle_signals(self) -> None:
        def request_stop() -> None:
            if self._stop_requested.is_set():  # a second request stops at once
                for child in self._children.values():
                    child.kill(signal.SIGKILL)
            self._stop_requested.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, request_stop)

    async def _serve_control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
        models: list[dict[str, Any]] = []
        running = self._started
        if self._profile is not None and running:
            services = [
                {"name": s.name, "cluster": s.cluster, "state": s.State.Name(s.state).lower(), "detail": s.detail}
                for s in await report(self._profile, self._channels)
            ]
            models = await self._models(self._profile)
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
            "data": str(self._paths.data),
            "processes": processes,
            "services": services,
            "models": models,
        }

    async def _models(self, profile: Profile) -> list[dict[str, Any]]:
        """Return the state of each model; none while the health service does not answer."""
        try:
            client = self._channels.client(HealthClient, profile.address_of("health").grpc)
            report = await client.get_report(GetReportRequest(), timeout=MODELS_TIMEOUT_SECONDS)
        except DrwError:
            return []
        return [to_json(model) for model in report.models]


def remove_envoy_state(folder: Path) -> None:
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


def first_error(group: BaseExceptionGroup[DrwError]) -> DrwError:
    """Return the first error of a nested exception group."""
    error = group.exceptions[0]
    return first_error(error) if isinstance(error, BaseExceptionGroup) else error
