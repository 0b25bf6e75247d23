"""The real PostgreSQL and Valkey, started once a test run, on Unix sockets in a short-lived folder."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import redis

from drw.local import postgres, valkey


def wait_until(ready: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Return when `ready` says so."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"{what} did not come within {seconds} s"
        time.sleep(0.02)


@contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command for as long as the block lasts."""
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def short_folder() -> Iterator[Path]:
    """Give a folder whose path is short enough for Unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="drw-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_postgres(folder: Path) -> Iterator[Path]:
    """Run PostgreSQL; gives the folder of its socket."""
    data, sockets = folder / "pg", folder / "s"
    postgres.prepare(data, sockets)
    fast = ["-cfsync=off", "-csynchronous_commit=off"]  # a test's data need not survive the machine
    with running([*postgres.command(data, sockets), *fast], folder / "pg.log"):
        wait_until(lambda: _answers(sockets), "PostgreSQL")
        yield sockets


@contextmanager
def running_valkey(folder: Path) -> Iterator[str]:
    """Run Valkey; gives its URL."""
    socket = folder / "v.sock"
    with running(valkey.command(folder / "valkey", socket), folder / "valkey.log"):
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
