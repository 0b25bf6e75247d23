"""Folder of the log's files: files are written atomically, and never changed."""

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
        """Exclude all other writers, of this process and of others, during the block."""
        self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._path / ".lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def put_once(self, path: str, data: bytes) -> None:
        """Write a file that never changes; writing the same content again has no effect.

        Raises:
            LogDamaged: the file exists with other content.
        """
        if (existing := self.read(path)) is None:
            self.replace(path, data)
        elif existing != data:
            raise LogDamaged(f"{path} exists already, with other content")

    def replace(self, path: str, data: bytes) -> None:
        """Write a file atomically: after a crash, either the old or the new content exists."""
        file = self._path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        with temporary.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
        _sync_folder(file.parent)

    def remove_partial(self, full_path: str) -> None:
        """Remove the partial files of a full file."""
        shutil.rmtree(self._path / f"{full_path}.p", ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
