"""Inspection of uploaded files: assembles the folder of a version by hard links and checks it in a child process."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import Any
from weakref import WeakValueDictionary

from drw.api.models.v1.discovery_pb2 import ModelFile
from drw.kernel.errors import Conflict, InvalidRequest, RateLimited, Unavailable
from drw.model_files.description import Description, TensorSignature
from drw.model_files.errors import ModelRejected
from drw.model_files.inspection import Inspection
from drw.model_files.manifest import FileEntry, Manifest
from drw.models.discovery.versions.file_store import MAX_UPLOAD_SECONDS, FileStore

PROCESS = "drw.model_files.inspection_process"
MEMORY_BYTES = 4 << 30
"""Address space of the child process."""
MAX_ANSWER = 8 << 20
CONCURRENT = 2
"""Inspections at once of all orgs; an org has one at a time."""
MAX_WAITING = 4
"""Waiting inspections of an org."""


class Inspector:
    """Inspects the files of new versions. Orgs take turns: each has at most one inspection that runs or waits its turn.

    Args:
        folder: the data folder of the service, on the same file system as the files.
        seconds: the time limit of one inspection.
    """

    def __init__(self, files: FileStore, folder: Path, seconds: float) -> None:
        self._files = files
        self._folder = folder / "assembly"
        self._seconds = seconds
        self._slots = asyncio.Semaphore(CONCURRENT)
        self._orgs: WeakValueDictionary[str, _OrgQueue] = WeakValueDictionary()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in self._folder.iterdir():  # of processes that died; other processes may use the newer ones
            if time.time() - path.stat().st_mtime > MAX_UPLOAD_SECONDS:
                shutil.rmtree(path, ignore_errors=True)

    async def inspect(self, org: str, name: str, files: Sequence[ModelFile]) -> Inspection:
        """Return manifest and description of uploaded files.

        Raises:
            ModelRejected: the files are malformed, unsafe or unsupported.
            InvalidRequest: a path is not permitted.
            Conflict: the files changed meanwhile, for example because they were uploaded again.
            RateLimited: the org has too many inspections that wait.
            Unavailable: the inspection did not end in time.
        """
        check_paths([file.path for file in files])
        if (queue := self._orgs.get(org)) is None:
            self._orgs[org] = queue = _OrgQueue()
        if queue.waiting > MAX_WAITING:
            raise RateLimited(f"the org {org!r} registers {queue.waiting} versions at once, the maximum")
        queue.waiting += 1
        try:
            async with queue.lock, self._slots:
                return await self._inspect(org, name, files)
        finally:
            queue.waiting -= 1

    async def _inspect(self, org: str, name: str, files: Sequence[ModelFile]) -> Inspection:
        with tempfile.TemporaryDirectory(dir=self._folder) as temporary:
            folder = Path(temporary) / name
            await asyncio.to_thread(self._link, folder, org, files)
            answer = await self._run(folder)
        if "changed" in answer:
            raise Conflict(f"the files changed during the inspection, try again: {answer['changed']}")
        if "rejected" in answer:
            raise ModelRejected(*map(str, answer["rejected"]))
        manifest = Manifest(name, tuple(FileEntry(**file) for file in answer["files"]))
        _check_complete(manifest, files)
        return Inspection(manifest, _description(answer["description"]))

    def _link(self, folder: Path, org: str, files: Sequence[ModelFile]) -> None:
        folder.mkdir(mode=0o700)
        for file in files:
            target = folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.link(self._files.path(org, file.sha256), target)

    async def _run(self, folder: Path) -> dict[str, Any]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-m", PROCESS, str(folder), str(MEMORY_BYTES)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={},
            cwd="/",
        )
        try:
            async with asyncio.timeout(self._seconds):
                output = await _read_all(process)
                status = await process.wait()
        except TimeoutError as error:
            message = f"the inspection takes more than {self._seconds:g} s (the setting inspection_seconds)"
            raise Unavailable(message) from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if status:
            raise ModelRejected(f"the inspection of the files ended with status {status}")
        answer: dict[str, Any] = json.loads(output)
        return answer


async def _read_all(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    output = bytearray()
    while block := await process.stdout.read(1 << 16):
        output += block
        if len(output) > MAX_ANSWER:
            raise ModelRejected(f"the description of the files has more than {MAX_ANSWER:,} bytes")
    return bytes(output)


class _OrgQueue:
    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0


def check_paths(paths: Sequence[str]) -> None:
    """Check that paths are relative, below their folder, and do not contain each other.

    Raises:
        InvalidRequest: one of them is not.
    """
    for path in paths:
        parts = path.split("/")
        if (
            not path.isprintable()
            or "\\" in path
            or any(part in ("", ".", "..") or part != part.strip() for part in parts)
            or any(len(part.encode()) > 255 for part in parts)
        ):
            raise InvalidRequest(f"{path[:100]!r} is not a path below the folder of the model", param="files")
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise InvalidRequest(f"{twice[0]!r} is given twice", param="files")
    known = set(paths)
    for path in paths:
        if inside := next((str(parent) for parent in PurePosixPath(path).parents if str(parent) in known), ""):
            raise InvalidRequest(f"{inside!r} is a file and the folder of {path!r}", param="files")


def _check_complete(manifest: Manifest, files: Sequence[ModelFile]) -> None:
    found = {file.path: file.sha256 for file in manifest.files}
    for file in files:
        if file.path not in found:
            raise InvalidRequest(f"{file.path!r} is not part of a model: leave it out", param="files")
        if found[file.path] != file.sha256:
            raise Unavailable(f"the stored file {file.path!r} is damaged: upload it again")


def _description(value: dict[str, Any]) -> Description:
    values = {field.name: value[field.name] for field in fields(Description)}
    for name in ("inputs", "outputs"):
        values[name] = tuple(
            TensorSignature(each["name"], each["dtype"], None if each["shape"] is None else tuple(each["shape"]))
            for each in values[name]
        )
    values["dtypes"] = tuple((name, number) for name, number in values["dtypes"])
    for name in ("datasets", "base_models"):
        values[name] = tuple(values[name])
    return Description(**values)
