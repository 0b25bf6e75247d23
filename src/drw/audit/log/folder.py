"""The files of the log in a folder: each appears whole or not at all, and is never changed."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drw.audit.tlog.damage import LogDamaged


class Folder:
    """A folder with the layout of C2SP tlog-tiles."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, path: str) -> bytes | None:
        """Return the content of a file; None: no file."""
        try:
            return (self._path / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other writer out, of this process and of others, until the block ends."""
        self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._path / ".lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def put_once(self, path: str, data: bytes) -> None:
        """Write a file that is never written again.

        Raises:
            LogDamaged: it is there already, with something else in it.
        """
        if (present := self.read(path)) is None:
            self.replace(path, data)
        elif present != data:
            raise LogDamaged(f"{path} is there already, with something else in it")

    def replace(self, path: str, data: bytes) -> None:
        """Write a file; after a crash at any moment the old one or the new one is there."""
        file = self._path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f".{file.name}.{os.getpid()}")
        with unfinished.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        unfinished.replace(file)
        _sync_folder(file.parent)

    def drop_partial(self, full_path: str) -> None:
        """Remove the partial forms of a file that is full."""
        shutil.rmtree(self._path / f"{full_path}.p", ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
