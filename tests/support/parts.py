"""PostgreSQL and Valkey, started once per test run, on Unix sockets in a temporary folder."""

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
"""Numbers of Valkey databases for hosts that run during all tests, one each, because a host treats counters of another
host as a loss. Defined here, because pytest loads each `conftest.py` as a separate module."""

MEMORY_BYTES = 2 << 30
"""Maximum size of the databases of a test run."""


def wait_until(ready: Callable[[], bool], name: str, seconds: float = 30) -> None:
    """Wait until `ready` returns true; blocks the event loop."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"{name} did not come within {seconds} s"
        time.sleep(0.02)


async def until(ready: Callable[[], Awaitable[bool]], name: str, seconds: float = 30) -> None:
    """Wait until `ready` returns true."""
    try:
        async with asyncio.timeout(seconds):
            while not await ready():
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"{name} did not come within {seconds} s")


@contextmanager
def running(
    command: list[str], log: Path, stop_signal: signal.Signals = signal.SIGTERM
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command during the block."""
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
def short_folder(parent: str = "/tmp") -> Iterator[Path]:
    """Yield a temporary folder with a path that is short enough for Unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="drw-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_postgres(folder: Path) -> Iterator[Path]:
    """Run PostgreSQL; yields the folder of its socket."""
    no_fsync = ["-cfsync=off", "-csynchronous_commit=off"]  # a test's data need not survive the machine
    with short_folder(_memory_folder()) as memory:
        data, sockets = memory / "pg", folder / "s"
        postgres.prepare(data, sockets)
        command = [*postgres.command(data, sockets), *no_fsync]
        # On SIGTERM, it would wait for connections that tests have left open.
        with running(command, folder / "pg.log", signal.SIGINT):
            wait_until(lambda: _accepts_connections(sockets), "PostgreSQL")
            yield sockets


def _memory_folder() -> str:
    """Return a folder in memory if it has enough space: each test creates a database of 300 files."""
    shared = Path("/dev/shm")
    return str(shared) if shared.is_dir() and shutil.disk_usage(shared).free > MEMORY_BYTES else "/tmp"


def new_database(sockets: Path) -> str:
    """Create an empty database; return its connection string."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgres.dsn(sockets, "postgres"), autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
    return postgres.dsn(sockets, name)


@contextmanager
def running_valkey(folder: Path) -> Iterator[str]:
    """Run Valkey; yields its URL."""
    socket = folder / "v.sock"
    with running([*valkey.command(folder / "valkey", socket), "--databases", "10000"], folder / "valkey.log"):
        wait_until(socket.exists, "Valkey")
        wait_until(lambda: _responds(valkey.url(socket)), "Valkey")
        yield valkey.url(socket)


def _accepts_connections(sockets: Path) -> bool:
    try:
        psycopg.connect(postgres.dsn(sockets, "postgres")).close()
    except psycopg.OperationalError:
        return False
    return True


def _responds(url: str) -> bool:
    with redis.Redis.from_url(url) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False
