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

LOOK_SECONDS = 0.1


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
    patience: LivenessPolicy = LivenessPolicy()
    needs: tuple[str, ...] = ()
    """What must be ready before this is started."""
    stops: int = 0
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
        self, spec: ProcessSpec, log: Path, write_log: Callable[[str], None], started: Callable[[], None] = lambda: None
    ) -> None:
        self.spec = spec
        self.state = ProcessState.WAITING
        self.detail = ""
        self.restarts = 0
        self._output = ProcessOutput(log)
        self._log = write_log
        self._started = started
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self.took = 0.0
        """How many seconds the last start took, until it was ready."""
        self._replaced = ""
        """Why the process that ends next was killed."""

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
        out, began = self._output.pipe(), time.monotonic()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *_ends_with_us(self.spec.command(), self.spec.stop_signal),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **self.spec.environment},
                start_new_session=True,  # Ctrl-C goes to the supervisor only, which stops processes in order
            )
        finally:
            os.close(out)
        await self._until_ready(self._process)
        self.state, self.detail, self.took = ProcessState.READY, "", time.monotonic() - began
        self._started()

    async def keep(self) -> None:
        """Restart the process whenever it exits, until `stop`."""
        pause = 0.1
        while not self._stopping:
            assert self._process is not None, "start comes first"
            code = await self._process.wait()
            if self._stopping:
                return
            self.restarts += 1
            self.state, self.detail = ProcessState.RESTARTING, self._replaced or _ended(code)
            self._replaced = ""
            self._log(f"{self.spec.name} {self.detail}; starting it again")
            await asyncio.sleep(pause)
            pause = 0.1 if await self._start_again() else min(pause * 2, 5.0)

    async def _start_again(self) -> bool:
        """Start the part, and return whether that worked: nothing that it raises ends the attempts."""
        if self._stopping:
            return False
        try:
            await self.start()
        except ProcessFailed as error:
            self.detail = error.message
        except Exception as error:
            log.exception("%s could not be started", self.spec.name)
            self.detail = self._replaced = f"could not be started: {error}"
            self.kill(signal.SIGKILL)
        else:
            return True
        return False

    async def watch(self) -> None:
        """Kill the process when its liveness probe fails, until `stop`; `keep` restarts it."""
        pulse: LivenessState | None = None
        while not self._stopping:
            await asyncio.sleep(liveness.LOOK_SECONDS)
            if (pid := self.pid) is None:
                continue
            if pulse is None or pulse.pid != pid:
                pulse = LivenessState(pid, self.spec.patience)
            up = self.state in (ProcessState.READY, ProcessState.UNRESPONSIVE)
            try:
                why = await pulse.look(self.spec.alive if up else None)
            except OSError:  # of this process: no more files, or no memory
                log.exception("%s cannot be looked at", self.spec.name)
                continue
            if pid != self.pid:
                continue
            if why:
                self._replaced = why
                self._kill_all(pid)
            elif up:
                silent = pulse.silent > 0
                self.state = ProcessState.UNRESPONSIVE if silent else ProcessState.READY
                self.detail = f"has not answered for {pulse.silent:.0f} s" if silent else ""

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

    def kill(self, number: signal.Signals) -> None:
        """Send a signal to the process if it runs."""
        if self.pid is not None and self._process is not None:
            self._process.send_signal(number)

    def _kill_all(self, pid: int) -> None:
        """Kill the process and its descendants; stopped (SIGSTOP) descendants would outlive it."""
        for one in liveness.tree(pid):
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)

    async def _until_ready(self, process: asyncio.subprocess.Process) -> None:
        try:
            async with asyncio.timeout(self.spec.start_seconds):
                while not await self.spec.ready():
                    if process.returncode is not None:
                        raise ProcessFailed(
                            f"{self.spec.name} {_ended(process.returncode)} while it started: {await self._why()}"
                        )
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            self.kill(signal.SIGKILL)
            await process.wait()
            raise ProcessFailed(
                f"{self.spec.name} was not ready within {self.spec.start_seconds:.0f} s: {await self._why()}"
            ) from None

    async def _why(self) -> str:
        line = await asyncio.to_thread(self._output.last_line)
        return f"{line[:300] or 'it said nothing'} (more in {self._output.file})"


def _ended(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def _ends_with_us(command: list[str], number: signal.Signals) -> list[str]:
    launcher = Path(__file__).with_name("launcher.py")
    return [sys.executable, "-I", "-S", str(launcher), str(int(number)), str(os.getpid()), *command]
