"""Cache of model files: content-addressed, read from discovery, verified before use."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from drw.api.models.v1.discovery_pb2 import ReadModelFileRequest
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.kernel.errors import DeadlineExceeded, Unavailable
from drw.models.serving.errors import ModelLoadFailed
from drw.models.serving.ports import FileReference, ModelSpec

ATTEMPTS = 3
BLOCK = 1 << 20
MIB = 1 << 20

log = logging.getLogger(__name__)


class ModelFiles:
    """Provides the folder with the files of a model.

    Files of registered versions are in `blobs/` under their SHA-256. A folder of `models/` has hard links to them.
    """

    def __init__(self, discovery: DiscoveryClient, folder: Path, max_mib: int) -> None:
        self._discovery = discovery
        self._blobs = folder / "blobs"
        self._models = folder / "models"
        self._max_bytes = max_mib * MIB
        self._locks: dict[str, asyncio.Lock] = {}
        self._waiting: Counter[str] = Counter()

    async def locate(self, spec: ModelSpec) -> Path:
        """Return the folder of a model; download missing files first.

        Raises:
            ModelLoadFailed: a path leads out of the folder, or a file differs from its digest.
            Unavailable: discovery does not answer.
        """
        if not spec.files:
            if not spec.folder or not (path := Path(spec.folder)).exists():
                raise ModelLoadFailed(f"the folder {spec.folder!r} of the model {spec.id!r} does not exist")
            return path
        for file in spec.files:
            _check_path(spec.id, file.path)
        total = sum(file.size for file in spec.files)
        if total > self._max_bytes:
            raise ModelLoadFailed(f"{spec.id!r} has {total // MIB} MiB; the cache has {self._max_bytes // MIB} MiB")
        async with self._exclusive(spec.digest):
            folder = self._models / spec.digest.removeprefix("sha256:")
            if not await asyncio.to_thread(_complete, folder, spec.files):
                for file in {each.sha256: each for each in spec.files}.values():
                    async with self._exclusive(file.sha256):
                        await self._fetch(spec.id, file)
                await asyncio.to_thread(self._assemble, folder, spec.files)
            await asyncio.to_thread(self._trim, folder)
            return folder

    async def _fetch(self, model: str, file: FileReference) -> None:
        blob = self._blobs / file.sha256
        if blob.exists() and blob.stat().st_size == file.size:
            return
        self._blobs.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = self._blobs / f".{secrets.token_hex(8)}"
        hasher, offset = hashlib.sha256(), 0
        try:
            with partial.open("wb") as out:
                for attempt in range(ATTEMPTS):
                    try:
                        offset += await self._download(file, offset, out, hasher.update)
                        break
                    except (Unavailable, DeadlineExceeded):
                        offset = out.tell()
                        if attempt == ATTEMPTS - 1:
                            raise
                out.flush()
                await asyncio.to_thread(os.fsync, out.fileno())
            if hasher.hexdigest() != file.sha256 or partial.stat().st_size != file.size:
                raise ModelLoadFailed(f"the file {file.path!r} of {model!r} differs from its digest")
            partial.chmod(0o400)
            partial.replace(blob)
        finally:
            partial.unlink(missing_ok=True)

    async def _download(self, file: FileReference, offset: int, out: BinaryIO, update: Callable[[bytes], None]) -> int:
        size = 0
        request = ReadModelFileRequest(sha256=file.sha256, offset=offset)
        async with aclosing(self._discovery.read_model_file(request)) as chunks:
            async for chunk in chunks:
                size += len(chunk.data)
                if offset + size > file.size:
                    raise ModelLoadFailed(f"the file {file.path!r} has more than {file.size} bytes")
                out.write(chunk.data)
                update(chunk.data)
        return size

    def _assemble(self, folder: Path, files: Sequence[FileReference]) -> None:
        """Create the folder of a model: build it beside its place, then rename it."""
        partial = self._models / f".{secrets.token_hex(8)}"
        try:
            for file in files:
                target = partial / file.path
                target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                os.link(self._blobs / file.sha256, target)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _trim(self, used: Path) -> None:
        """Delete the least recently used folders and blobs above the limit, never the folder that is about to load.

        A running process keeps its open files.
        """
        os.utime(used)
        folders = sorted((path for path in self._models.iterdir()), key=lambda path: path.stat().st_mtime)
        for folder in folders:
            if self._size() <= self._max_bytes:
                return
            if folder != used:
                shutil.rmtree(folder, ignore_errors=True)
                for blob in self._blobs.iterdir():
                    if blob.stat().st_nlink == 1 and time.time() - blob.stat().st_mtime > 1:
                        blob.unlink(missing_ok=True)

    def _size(self) -> int:
        return sum(blob.stat().st_size for blob in self._blobs.iterdir())

    @asynccontextmanager
    async def _exclusive(self, name: str) -> AsyncIterator[None]:
        """Hold the lock of a name for the block."""
        self._waiting[name] += 1
        try:
            async with self._locks.setdefault(name, asyncio.Lock()):
                yield
        finally:
            self._waiting[name] -= 1
            if not self._waiting[name]:
                del self._waiting[name], self._locks[name]


def _check_path(model: str, path: str) -> None:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\x00" in path:
        raise ModelLoadFailed(f"{model!r} has a file with the path {path!r}, which is not inside of its folder")


def _complete(folder: Path, files: Sequence[FileReference]) -> bool:
    """Return whether the folder has all files in their size; the process that loads them verifies their digest."""
    try:
        return all((folder / file.path).stat().st_size == file.size for file in files)
    except OSError:
        return False
