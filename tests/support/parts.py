"""The real PostgreSQL and Valkey, started once a test run, on Unix sockets in a short-lived folder."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis

from drw.local import postgres, valkey

_numbers = itertools.count()

session_databases = itertools.count(9900)
"""Numbers of Valkey's databases for hosts that live for a whole run, one each: two hosts on one would each take the
counters of the other for a loss of its own. Here, since pytest loads each `conftest.py` as a module of its own."""

MEMORY_BYTES = 2 << 30
"""What the databases of a run of tests may come to, with some in use at once."""


def wait_until(ready: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Return when `ready` says so; holds up the event loop."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"{what} did not come within {seconds} s"
        time.sleep(0.02)


async def until(ready: Callable[[], Awaitable[bool]], what: str, seconds: float = 30) -> None:
    """Return when `ready` says so."""
    try:
        async with asyncio.timeout(seconds):
            while not await ready():
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"{what} did not come within {seconds} s")


@contextmanager
def running(
    command: list[str], log: Path, stop_signal: signal.Signals = signal.SIGTERM
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command for as long as the block lasts."""
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(stop_signal)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def short_folder(where: str = "/tmp") -> Iterator[Path]:
    """Give a folder whose path is short enough for Unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="drw-", dir=where))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_postgres(folder: Path) -> Iterator[Path]:
    """Run PostgreSQL; gives the folder of its socket."""
    fast = ["-cfsync=off", "-csynchronous_commit=off"]  # a test's data need not survive the machine
    with short_folder(_in_memory()) as memory:
        data, sockets = memory / "pg", folder / "s"
        postgres.prepare(data, sockets)
        command = [*postgres.command(data, sockets), *fast]
        # Asked with SIGTERM, it would wait for the connections that tests have left open.
        with running(command, folder / "pg.log", signal.SIGINT):
            wait_until(lambda: _answers(sockets), "PostgreSQL")
            yield sockets


def _in_memory() -> str:
    """Return where files are in memory, if there is room: a new database has 300 files, and each test a database."""
    shared = Path("/dev/shm")
    return str(shared) if shared.is_dir() and shutil.disk_usage(shared).free > MEMORY_BYTES else "/tmp"


def new_database(sockets: Path) -> str:
    """Make a new, empty database; return its connection string."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgres.dsn(sockets, "postgres"), autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
    return postgres.dsn(sockets, name)


@contextmanager
def running_valkey(folder: Path) -> Iterator[str]:
    """Run Valkey; gives its URL."""
    socket = folder / "v.sock"
    with running([*valkey.command(folder / "valkey", socket), "--databases", "10000"], folder / "valkey.log"):
        wait_until(socket.exists, "Valkey")
        wait_until(lambda: _pings(valkey.url(socket)), "Valkey")
        yield valkey.url(socket)


def _answers(sockets: Path) -> bool:
    try:
        psycopg.connect(postgres.dsn(sockets, "postgres")).close()
    except psycopg.OperationalError:
        return False
    return True


def _pings(url: str) -> bool:
    with redis.Redis.from_url(url) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False
