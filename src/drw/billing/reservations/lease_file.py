"""Lease file: names the lease of this process, so that its successor can hand the lease back at once.

A process locks the file for as long as it lives. The kernel frees the lock when the process ends, however it ends,
and never before: whoever gets the lock knows that all whose leases stand in the file are dead. A process that does
not get it (another one of the same folder lives) knows of nobody. See docs/decisions/0013.
"""

from __future__ import annotations

import fcntl
from contextlib import suppress
from pathlib import Path


class LeaseFile:
    """Locked from here to `release`, or to the end of the process."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b", buffering=0)  # no child that executes another program inherits it
        self._own = ""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # held, or a file system without locks
            self._file.close()
        self.dead = [] if self._file.closed else self._read()
        """Leases of processes that are dead for certain, and that are not handed back yet."""

    def begin(self, lease: str) -> None:
        """Write the lease that this process is about to begin, in place of its last one."""
        self._own = lease
        self._write()

    def handed_back(self, lease: str) -> None:
        """Remove the lease of a dead process."""
        self.dead.remove(lease)
        self._write()

    def release(self) -> None:
        """Unlock the file: this process holds no reservation any more."""
        self._file.close()

    def _read(self) -> list[str]:
        self._file.seek(0)
        return self._file.read().decode(errors="replace").split()

    def _write(self) -> None:
        if not self._file.closed:
            with suppress(OSError):  # on a full disk the lease decides, as without a file
                self._file.truncate(0)
                self._file.write("".join(f"{lease}\n" for lease in (*self.dead, self._own)).encode())
