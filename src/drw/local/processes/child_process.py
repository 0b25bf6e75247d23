"""A supervised child process: start, readiness, liveness, restart, stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from drw.kernel.errors import Unavailable
from drw.local.processes import liveness
from drw.local.processes.liveness import LivenessPolicy, LivenessState, Probe
from drw.local.processes.output import ProcessOutput

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1


class ProcessState(StrEnum):
    """State of a process."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    UNRESPONSIVE = "unresponsive"
    RESTARTING = "restarting"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """Specification of a process: command, readiness, liveness, dependencies."""

    name: str
    title: str
    command: Callable[[], list[str]]
    ready: Probe
    alive: Probe | None = None
    """Liveness probe, independent of the dependencies of the process."""
    liveness_policy: LivenessPolicy = LivenessPolicy()
    depends_on: tuple[str, ...] = ()
    """Names of the processes that must be ready first."""
    stop_order: int = 0
    """Stop order: higher numbers stop first, equal numbers together."""
    prepare: Callable[[], Awaitable[None]] | None = None
    """Runs before each start."""
    before_stop: Callable[[], Awaitable[None]] | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    start_seconds: float = 60.0
    stop_seconds: float = 15.0
    environment: Mapping[str, str] = field(default_factory=dict)


class ProcessFailed(Unavailable):
    """A process exited, or was not ready in time."""


class ChildProcess:
    """A running process, restarted when it exits or freezes."""

    def __init__(
        self,
        spec: ProcessSpec,
        log: Path,
        write_log: Callable[[str], None],
        on_started: Callable[[], None] = lambda: None,
    ) -> None:
        self.spec = spec
        self.state = ProcessState.WAITING
        self.detail = ""
        self.restarts = 0
        self._output = ProcessOutput(log)
        self._log = write_log
        self.on_started = on_started
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self.start_duration = 0.0
        """Seconds of the last start, until the process was ready."""
        self._kill_reason = ""
        """Reason of the last kill, reported when the process has exited."""

    @property
    def pid(self) -> int | None:
        """The process id while running."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Start the process, and return when it is ready.

        Raises:
            ProcessFailed: it exited or took too long; the message has the last line of its log.
        """
        self.state = ProcessState.STARTING if not self.restarts else ProcessState.RESTARTING
        if self.spec.prepare:
            await self.spec.prepare()
        if self._stopping:
            raise ProcessFailed(f"{self.spec.name} is to stop")
        out, started_at = self._output.pipe(), time.monotonic()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *_bound_to_parent(self.spec.command(), self.spec.stop_signal),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **self.spec.environment},
                start_new_session=True,  # Ctrl-C goes to the supervisor only, which stops processes in order
            )
        finally:
            os.close(out)
        await self._wait_until_ready(self._process)
        self.state, self.detail, self.start_duration = ProcessState.READY, "", time.monotonic() - started_at
        self.on_started()

    async def supervise(self) -> None:
        """Restart the process whenever it exits, until `stop`."""
        pause = 0.1
        while not self._stopping:
            assert self._process is not None, "start comes first"
            code = await self._process.wait()
            if self._stopping:
                return
            self.restarts += 1
            self.state, self.detail = ProcessState.RESTARTING, self._kill_reason or _exit_description(code)
            self._kill_reason = ""
            self._log(f"{self.spec.name} {self.detail}; starting it again")
            await asyncio.sleep(pause)
            pause = 0.1 if await self._try_start() else min(pause * 2, 5.0)

    async def _try_start(self) -> bool:
        """Start the process; return whether that succeeded. No error stops further attempts."""
        if self._stopping:
            return False
        try:
            await self.start()
        except ProcessFailed as error:
            self.detail = error.message
        except Exception as error:  # one process that cannot start must not end the supervisor of the others
            log.exception("%s could not be started", self.spec.name)
            self.detail = self._kill_reason = f"could not be started: {error}"
            self.kill(signal.SIGKILL)
        else:
            return True
        return False

    async def monitor_liveness(self) -> None:
        """Kill the process when its liveness probe fails, until `stop`; `supervise` restarts it."""
        liveness_state: LivenessState | None = None
        while not self._stopping:
            await asyncio.sleep(liveness.PROBE_SECONDS)
            if (pid := self.pid) is None:
                continue
            if liveness_state is None or liveness_state.pid != pid:
                liveness_state = LivenessState(pid, self.spec.liveness_policy)
            running = self.state in (ProcessState.READY, ProcessState.UNRESPONSIVE)
            try:
                reason = await liveness_state.check(self.spec.alive if running else None)
            except OSError:  # of the supervisor: no file descriptors or no memory left
                log.exception("%s cannot be probed", self.spec.name)
                continue
            if pid != self.pid:
                continue
            if reason:
                self._kill_reason = reason
                self._kill_tree(pid)
            elif running:
                unresponsive = liveness_state.unresponsive_seconds > 0
                self.state = ProcessState.UNRESPONSIVE if unresponsive else ProcessState.READY
                self.detail = (
                    f"has not answered for {liveness_state.unresponsive_seconds:.0f} s" if unresponsive else ""
                )

    async def stop(self) -> None:
        """Stop the process with its signal, and with SIGKILL after a grace period."""
        self._stopping = True
        if self.pid is not None and self._process is not None:
            if self.spec.before_stop and self.state == ProcessState.READY:
                await self.spec.before_stop()
            self.kill(self.spec.stop_signal)
            try:
                async with asyncio.timeout(self.spec.stop_seconds):
                    await self._process.wait()
            except TimeoutError:
                self._log(f"{self.spec.name} did not stop within {self.spec.stop_seconds:.0f} s; killed")
                self.kill(signal.SIGKILL)
                await self._process.wait()
            await asyncio.to_thread(self._output.drain)
        self.state = ProcessState.STOPPED

    def kill(self, signal_number: signal.Signals) -> None:
        """Send a signal to the process if it runs."""
        if self.pid is not None and self._process is not None:
            self._process.send_signal(signal_number)

    def _kill_tree(self, pid: int) -> None:
        """Kill the process and its descendants; stopped (SIGSTOP) descendants would survive it."""
        for member in liveness.process_tree(pid):
            with suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)

    async def _wait_until_ready(self, process: asyncio.subprocess.Process) -> None:
        try:
            async with asyncio.timeout(self.spec.start_seconds):
                while not await self.spec.ready():
                    if process.returncode is not None:
                        raise ProcessFailed(
                            f"{self.spec.name} {_exit_description(process.returncode)} while it started: "
                            f"{await self._last_output()}"
                        )
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            self.kill(signal.SIGKILL)
            await process.wait()
            raise ProcessFailed(
                f"{self.spec.name} was not ready within {self.spec.start_seconds:.0f} s: {await self._last_output()}"
            ) from None

    async def _last_output(self) -> str:
        line = await asyncio.to_thread(self._output.last_line)
        return f"{line[:300] or 'no output'} (more in {self._output.file})"


def _exit_description(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def _bound_to_parent(command: list[str], signal_number: signal.Signals) -> list[str]:
    launcher = Path(__file__).with_name("launcher.py")
    return [sys.executable, "-I", "-S", str(launcher), str(int(signal_number)), str(os.getpid()), *command]
