"""Lease file: contains the lease of this process, so that its successor can return the lease immediately.

A process locks the file until it ends. The operating system releases the lock when the process ends, and never before.
A process that gets the lock therefore knows that the processes whose leases are in the file are dead. A process that
does not get the lock, because another process uses the same folder, returns no leases. See docs/decisions/0013.
"""

from __future__ import annotations

import fcntl
from contextlib import suppress
from pathlib import Path


class LeaseFile:
    """Locks the file until `release`, or until the process ends."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b", buffering=0)  # not inherited by child processes
        self._lease = ""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # locked by another process, or a file system without locks
            self._file.close()
        self.dead: list[str] = []
        """Leases of dead processes that are not returned yet."""
        if not self._file.closed:
            self._file.seek(0)
            self.dead = self._file.read().decode(errors="replace").split()

    def begin(self, lease: str) -> None:
        """Write the lease that this process is about to begin, replacing its previous one."""
        self._lease = lease
        self._write()

    def mark_returned(self, lease: str) -> None:
        """Remove the lease of a dead process."""
        self.dead.remove(lease)
        self._write()

    def release(self) -> None:
        """Unlock the file."""
        self._file.close()

    def _write(self) -> None:
        if not self._file.closed:
            with suppress(OSError):  # on a full disk, the lease expires as if there were no file
                self._file.truncate(0)
                self._file.write("".join(f"{lease}\n" for lease in (*self.dead, self._lease)).encode())
