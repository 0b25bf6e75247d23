"""Liveness checks: stopped and unresponsive processes are replaced, busy ones are not."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drw.local.platform import _database_alive
from drw.local.processes import liveness
from drw.local.processes.child_process import ProcessState
from drw.local.processes.liveness import LivenessPolicy, LivenessState, replies
from local.test_child_process import IDLE, child_process, until, work_folder
from support.parts import wait_until

__all__ = ["work_folder"]
SPIN = "while True: pass"
SLEEP = "import signal; signal.pause()"


async def never() -> bool:
    return False


@pytest.fixture
def start_process() -> Iterator[Callable[[str], int]]:
    processes: list[subprocess.Popen[bytes]] = []

    def start(code: str) -> int:
        processes.append(subprocess.Popen([sys.executable, "-I", "-S", "-c", code]))
        return processes[-1].pid

    yield start
    for started in processes:
        started.kill()
        started.wait()


def state(pid: int) -> str:
    return liveness.process_tree(pid)[pid].state


async def checks_until_replaced(liveness_state: LivenessState) -> int:
    """Return the number of checks after which the process must be replaced."""
    for number in itertools.count(1):
        if await liveness_state.check(never):
            return number
    raise AssertionError


async def test_idle_unresponsive_process_is_replaced_before_a_busy_one(
    start_process: Callable[[str], int],
) -> None:
    ticks = itertools.count(0.0, 3.0)
    idle, busy = start_process(SLEEP), start_process(SPIN)
    wait_until(lambda: state(idle) == "S", "an idle process")
    assert await checks_until_replaced(LivenessState(idle, LivenessPolicy(), lambda: next(ticks))) == 3
    assert await checks_until_replaced(LivenessState(busy, LivenessPolicy(), lambda: next(ticks))) == 20


async def test_process_with_a_busy_child_is_not_idle(start_process: Callable[[str], int]) -> None:
    ticks = itertools.count(0.0, 3.0)
    parent = start_process(f"import os, signal\nif os.fork(): signal.pause()\n{SPIN}")
    wait_until(lambda: len(liveness.process_tree(parent)) == 2, "a child")
    child = max(liveness.process_tree(parent))
    assert await checks_until_replaced(LivenessState(parent, LivenessPolicy(), lambda: next(ticks))) == 20
    os.kill(child, signal.SIGKILL)


async def test_time_without_supervisor_checks_does_not_count(start_process: Callable[[str], int]) -> None:
    idle = start_process(SLEEP)
    wait_until(lambda: state(idle) == "S", "an idle process")
    ticks = itertools.count(0.0, 1000.0)  # measured by the clock, three checks would be an hour
    assert await checks_until_replaced(LivenessState(idle, LivenessPolicy(), lambda: next(ticks))) == 3


async def test_response_during_a_blocked_event_loop_counts(
    start_process: Callable[[str], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "TIMEOUT_SECONDS", 0.05)
    request_received = threading.Event()

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(100)
            request_received.set()
            connection.sendall(b"+PONG\r\n")

    async def block_the_loop() -> None:
        while not request_received.is_set():
            await asyncio.sleep(0)
        time.sleep(4 * liveness.TIMEOUT_SECONDS)

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{tmp_path}/s")
        server.listen()
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        liveness_state = LivenessState(start_process(SLEEP), LivenessPolicy())
        blocked = asyncio.create_task(block_the_loop())
        assert await liveness_state.check(lambda: replies(f"unix:{tmp_path}/s", b"PING\r\n")) == ""
        await blocked
    assert liveness_state.unresponsive_seconds == 0


async def test_probe_without_free_file_descriptors_replaces_nothing(
    work_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "PROBE_SECONDS", 0.01)
    probes: list[int] = []

    async def alive() -> bool:
        probes.append(1)
        return await replies(f"unix:{work_folder}/s", b"PING\r\n")

    async def fail_with_emfile(path: str) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(asyncio, "open_unix_connection", fail_with_emfile)
    process = child_process(work_folder, IDLE, alive=alive, liveness_policy=LivenessPolicy(idle=0.0, busy=0.0))
    await process.start()
    work = asyncio.gather(process.supervise(), process.monitor_liveness())
    await until(lambda: len(probes) >= 5)
    assert (process.restarts, process.state) == (0, ProcessState.READY)
    await process.stop()
    await work


async def test_stopped_process_is_replaced_with_its_children(
    work_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "PROBE_SECONDS", 0.05)
    code = "import os, signal\nos.fork()\nopen('up', 'a').write('x')\nsignal.pause()"
    process = child_process(work_folder, [sys.executable, "-c", code], liveness_policy=LivenessPolicy(stopped=0.2))
    await process.start()
    work = asyncio.gather(process.supervise(), process.monitor_liveness())
    first = process.pid
    assert first is not None
    await until(lambda: len(liveness.process_tree(first)) == 2)
    process_ids = liveness.process_tree(first)
    for pid in process_ids:
        os.kill(pid, signal.SIGSTOP)
    await until(lambda: process.restarts == 1 and process.state == ProcessState.READY)
    assert process.messages == ["thing was stopped by a signal; starting it again"]
    await until(lambda: not any(liveness.process_tree(pid) for pid in process_ids))
    assert process.pid is not None
    for pid in liveness.process_tree(process.pid):  # a signal to the process alone would leave its child
        os.kill(pid, signal.SIGTERM)
    await process.stop()
    await work


async def test_recovered_process_is_ready_again(work_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "PROBE_SECONDS", 0.05)
    answers = False

    async def alive() -> bool:
        return answers

    process = child_process(work_folder, IDLE, alive=alive)
    await process.start()
    work = asyncio.gather(process.supervise(), process.monitor_liveness())
    await until(lambda: process.state == ProcessState.UNRESPONSIVE and "has not answered" in process.detail)
    answers = True
    await until(lambda: process.state == ProcessState.READY and not process.detail)
    assert process.restarts == 0
    await process.stop()
    await work


async def test_server_without_a_reply_is_not_alive(tmp_path: Path) -> None:
    async def close_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def answer_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-ERR busy\r\n")
        writer.close()

    address = f"unix:{tmp_path}/s"
    assert not await replies(address, b"PING\r\n")
    async with await asyncio.start_unix_server(close_at_once, f"{tmp_path}/s"):
        assert not await replies(address, b"PING\r\n")
    async with await asyncio.start_unix_server(answer_and_close, f"{tmp_path}/t"):
        assert await replies(f"unix:{tmp_path}/t", b"PING\r\n")


def test_database_that_rejects_a_connection_is_alive(postgres: Path) -> None:
    assert _database_alive(postgres)  # the server answers although the database does not exist
    assert not _database_alive(postgres / "nowhere")
