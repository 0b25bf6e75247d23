"""Preflight checks: data folder lock, disk space, free port."""

from __future__ import annotations

import fcntl
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from drw.kernel.errors import Conflict, Unavailable
from drw.local.paths import PlatformPaths

MIN_FREE_BYTES = 1 << 30


@contextmanager
def locked(paths: PlatformPaths) -> Iterator[None]:
    """Lock the data folder.

    Raises:
        Conflict: another platform runs in it.
    """
    paths.prepare()
    with paths.lock.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"a platform runs in {paths.data} already: `drw status` shows it, `drw down` stops it, "
                "and --data-dir with --port starts another one"
            ) from None
        yield


def check_space(paths: PlatformPaths) -> None:
    """Raise if the disk is nearly full."""
    for folder in (paths.data, paths.run):
        if (free := shutil.disk_usage(folder).free) < MIN_FREE_BYTES:
            raise Unavailable(
                f"{folder} has {free >> 20} MB left; the platform needs {MIN_FREE_BYTES >> 20} MB to start"
            )


def check_port(listen: str) -> None:
    """Raise if the port is taken."""
    host, _, port = listen.rpartition(":")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, int(port)))
        except OSError as error:
            raise Unavailable(f"{listen} is not free ({error.strerror}): choose another port with --port") from error


def free_port(host: str) -> int:
    """Return a free port."""
    with socket.socket() as sock:
        sock.bind((host, 0))
        port: int = sock.getsockname()[1]
        return port
