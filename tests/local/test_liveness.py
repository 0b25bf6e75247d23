"""A child that is stopped or hangs is replaced; one that works, and a supervisor that was held up, are no reason."""

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
from typing import Any

import pytest

from drw.local.platform import _database_alive
from drw.local.processes import liveness
from drw.local.processes.child_process import ProcessState
from drw.local.processes.liveness import LivenessPolicy, LivenessState, replies
from local.test_part import IDLE, child, here, until
from support.parts import wait_until

__all__ = ["here"]
SPIN = "while True: pass"
REST = "import signal; signal.pause()"


async def never() -> bool:
    return False


@pytest.fixture
def running() -> Iterator[Callable[[str], int]]:
    made: list[subprocess.Popen[bytes]] = []

    def run(code: str) -> int:
        made.append(subprocess.Popen([sys.executable, "-I", "-S", "-c", code]))
        return made[-1].pid

    yield run
    for process in made:
        process.kill()
        process.wait()


def state(pid: int) -> str:
    return liveness.process_tree(pid)[pid].state


async def looks(pulse: LivenessState) -> int:
    """Return after how many looks the process must be replaced."""
    for number in itertools.count(1):
        if await pulse.check(never):
            return number
    raise AssertionError


async def test_of_processes_that_do_not_answer_the_idle_one_is_replaced_long_before_the_one_that_works(
    running: Any,
) -> None:
    ticks = itertools.count(0.0, 3.0)
    rests, spins = running(REST), running(SPIN)
    wait_until(lambda: state(rests) == "S", "a process that rests")
    assert await looks(LivenessState(rests, LivenessPolicy(), lambda: next(ticks))) == 3
    assert await looks(LivenessState(spins, LivenessPolicy(), lambda: next(ticks))) == 20


async def test_a_process_whose_child_works_is_not_idle(running: Any) -> None:
    ticks = itertools.count(0.0, 3.0)
    parent = running(f"import os, signal\nif os.fork(): signal.pause()\n{SPIN}")
    wait_until(lambda: len(liveness.process_tree(parent)) == 2, "a child")
    child = max(liveness.process_tree(parent))
    assert await looks(LivenessState(parent, LivenessPolicy(), lambda: next(ticks))) == 20
    os.kill(child, signal.SIGKILL)


async def test_time_in_which_the_supervisor_did_not_run_does_not_count(running: Any) -> None:
    rests = running(REST)
    wait_until(lambda: state(rests) == "S", "a process that rests")
    ticks = itertools.count(0.0, 1000.0)  # by the wall, three looks would be an hour
    assert await looks(LivenessState(rests, LivenessPolicy(), lambda: next(ticks))) == 3


async def test_an_answer_that_came_while_the_supervisor_did_not_run_is_an_answer(
    running: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "TIMEOUT_SECONDS", 0.05)
    asked = threading.Event()

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(100)
            asked.set()
            connection.sendall(b"+PONG\r\n")

    async def held_up() -> None:
        while not asked.is_set():
            await asyncio.sleep(0)
        time.sleep(4 * liveness.TIMEOUT_SECONDS)

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{tmp_path}/s")
        server.listen()
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        pulse = LivenessState(running(REST), LivenessPolicy())
        hindrance = asyncio.create_task(held_up())
        assert await pulse.check(lambda: replies(f"unix:{tmp_path}/s", b"PING\r\n")) == ""
        await hindrance
    assert pulse.unresponsive_seconds == 0


async def test_a_supervisor_without_room_for_a_connection_takes_nobody_for_dead(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "PROBE_SECONDS", 0.01)
    looks: list[int] = []

    async def alive() -> bool:
        looks.append(1)
        return await replies(f"unix:{here}/s", b"PING\r\n")

    async def no_room(path: str) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(asyncio, "open_unix_connection", no_room)
    thing = child(here, IDLE, alive=alive, liveness_policy=LivenessPolicy(idle=0.0, busy=0.0))
    await thing.start()
    work = asyncio.gather(thing.supervise(), thing.monitor_liveness())
    await until(lambda: len(looks) >= 5)
    assert (thing.restarts, thing.state) == (0, ProcessState.READY)
    await thing.stop()
    await work


async def test_a_stopped_child_is_replaced_with_all_that_it_began(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "PROBE_SECONDS", 0.05)
    code = "import os, signal\nos.fork()\nopen('up', 'a').write('x')\nsignal.pause()"
    thing = child(here, [sys.executable, "-c", code], liveness_policy=LivenessPolicy(stopped=0.2))
    await thing.start()
    work = asyncio.gather(thing.supervise(), thing.monitor_liveness())
    first = thing.pid
    assert first is not None
    await until(lambda: len(liveness.process_tree(first)) == 2)
    family = liveness.process_tree(first)
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    await until(lambda: thing.restarts == 1 and thing.state == ProcessState.READY)
    assert thing.said == ["thing was stopped by a signal; starting it again"]
    await until(lambda: not any(liveness.process_tree(pid) for pid in family))
    assert thing.pid is not None
    for pid in liveness.process_tree(thing.pid):  # its own signal would leave the one that it began
        os.kill(pid, signal.SIGTERM)
    await thing.stop()
    await work


async def test_a_child_that_answers_again_is_ready_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "PROBE_SECONDS", 0.05)
    answers = False

    async def alive() -> bool:
        return answers

    thing = child(here, IDLE, alive=alive)
    await thing.start()
    work = asyncio.gather(thing.supervise(), thing.monitor_liveness())
    await until(lambda: thing.state == ProcessState.UNRESPONSIVE and "has not answered" in thing.detail)
    answers = True
    await until(lambda: thing.state == ProcessState.READY and not thing.detail)
    assert thing.restarts == 0
    await thing.stop()
    await work


async def test_whoever_is_asked_and_says_nothing_is_not_alive(tmp_path: Path) -> None:
    async def closes(reader, writer):
        writer.close()

    async def talks(reader, writer):
        writer.write(b"-ERR busy\r\n")
        writer.close()

    address = f"unix:{tmp_path}/s"
    assert not await replies(address, b"PING\r\n")
    async with await asyncio.start_unix_server(closes, f"{tmp_path}/s"):
        assert not await replies(address, b"PING\r\n")
    async with await asyncio.start_unix_server(talks, f"{tmp_path}/t"):
        assert await replies(f"unix:{tmp_path}/t", b"PING\r\n")


def test_a_database_that_refuses_a_connection_is_alive(postgres: Path) -> None:
    assert _database_alive(postgres)  # there is no database of the name that it is asked for
    assert not _database_alive(postgres / "nowhere")
