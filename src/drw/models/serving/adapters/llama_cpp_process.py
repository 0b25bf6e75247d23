"""Adapter of llama.cpp processes: each GGUF model runs in a process of `drw.models.engine`."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from drw.kernel.errors import InternalError
from drw.models.serving.errors import EngineUnavailable, ModelLoadFailed
from drw.models.serving.ports import LoadedModel, ModelLoader, ModelSpec
from drw.models.serving.runtime.child_process import ModelProcess
from drw.tensors.datatypes import Tensor

MODULE = "drw.models.engine"
DEFAULT_CONTEXT = 4096
POLL_SECONDS = 0.05
CHECK_SECONDS = 5.0
MIB = 1 << 20


class LlamaCppProcess(LoadedModel):
    """One GGUF model with OpenAI's API on a Unix socket."""

    def __init__(self, spec: ModelSpec, process: ModelProcess, socket: Path) -> None:
        self._spec = spec
        self._process = process
        self._socket = socket
        self.address = f"unix:{socket}"

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.alive

    async def infer(self, inputs: Sequence[Tensor], outputs: Sequence[str]) -> tuple[Tensor, ...]:
        """Raise an error: a chat model has no tensors."""
        raise InternalError(f"{self._spec.id!r} is a chat model")

    async def check(self) -> int:
        """Return the resident bytes of the process."""
        if not await self.responds():
            raise EngineUnavailable(f"the process of {self._spec.id!r} does not answer")
        return await asyncio.to_thread(_resident_bytes, self._process.pid)

    async def responds(self) -> bool:
        """Return whether the engine answers its health check."""
        timeout = aiohttp.ClientTimeout(total=CHECK_SECONDS)
        connector = aiohttp.UnixConnector(str(self._socket))
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.get("http://engine/health") as response,
            ):
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def wait_until_ready(self) -> None:
        """Wait until the model is loaded.

        Raises:
            ModelLoadFailed: the process ended.
        """
        while not await self.responds():
            if not self.alive:
                raise ModelLoadFailed(f"{self._spec.id!r} cannot be loaded: {await self._process.wait()}")
            await asyncio.sleep(POLL_SECONDS)

    async def close(self) -> None:
        """End the process."""
        await self._process.kill()
        self._socket.unlink(missing_ok=True)


class LlamaCppLoader(ModelLoader):
    """Starts processes of GGUF models."""

    def __init__(self) -> None:
        # The path of a socket is short; that of the data folder can be too long.
        self._folder = Path(tempfile.mkdtemp(prefix="drw-models-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def memory_mib(self, spec: ModelSpec, path: Path) -> int:
        """Return the memory of the files, and of the key-value cache of all slots."""
        return super().memory_mib(spec, path) + _cache_token_bytes(spec, path) * _context(spec) // MIB

    async def load(self, spec: ModelSpec, path: Path, memory_mib: int) -> LoadedModel:
        """Start the process of a model; see `ModelLoader.load`."""
        file = await asyncio.to_thread(_checked_file, spec, path)
        socket = self._folder / f"{secrets.token_hex(8)}.sock"
        arguments = ["--model", str(file), "--socket", str(socket), "--slots", str(spec.slots)]
        arguments += [
            "--context",
            str(_context(spec)),
            "--memory",
            str(memory_mib),
            "--threads",
            str(spec.threads or os.cpu_count() or 2),
        ]
        model = LlamaCppProcess(spec, ModelProcess.start(MODULE, arguments), socket)
        try:
            await model.wait_until_ready()
        except BaseException:
            await model.close()
            raise
        return model


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def _context(spec: ModelSpec) -> int:
    """Return the tokens of all slots."""
    return spec.slots * (spec.context_length or DEFAULT_CONTEXT)


def _only_file(spec: ModelSpec, path: Path) -> Path:
    files = [path] if path.is_file() else sorted(path.rglob("*.gguf"))
    if len(files) != 1:
        raise ModelLoadFailed(f"{spec.id!r} has {len(files)} GGUF files; it needs one")
    return files[0]


def _cache_token_bytes(spec: ModelSpec, path: Path) -> int:
    """Return the bytes of the key-value cache of one token."""
    from drw.model_files.errors import ModelRejected
    from drw.model_files.formats import gguf_header
    from drw.model_files.formats.reader import Reader
    from drw.model_files.limits import DEFAULT

    try:
        with _only_file(spec, path).open("rb") as file:
            return gguf_header.parse(Reader(file.fileno(), path.name), DEFAULT).description.cache_token_bytes
    except (ModelRejected, OSError) as error:
        raise ModelLoadFailed(f"{spec.id!r} cannot be loaded: {error}") from error


def _checked_file(spec: ModelSpec, path: Path) -> Path:
    """Return the only GGUF file of a model after a check of all its files."""
    from drw.model_files.errors import ModelRejected
    from drw.model_files.inspection import inspect

    try:
        inspection = inspect(path)
    except (ModelRejected, OSError) as error:
        raise ModelLoadFailed(f"{spec.id!r} cannot be loaded: {error}") from error
    if spec.digest and inspection.manifest.digest != spec.digest:
        raise ModelLoadFailed(f"the files of {spec.id!r} have the digest {inspection.manifest.digest}")
    return _only_file(spec, path)
