"""Adapter of ONNX Runtime: each model runs in a process of `drw.models.engine.predictive`."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from drw.kernel.errors import InvalidRequest
from drw.kernel.runtime.settings import Settings as Base
from drw.models.serving.errors import EngineUnavailable, ModelLoadFailed
from drw.models.serving.ports import LoadedModel, ModelLoader, ModelSpec
from drw.models.serving.runtime import probes
from drw.models.serving.runtime.child_process import ModelProcess
from drw.tensors import frames
from drw.tensors.datatypes import Tensor

MODULE = "drw.models.engine.predictive"
CHECK_SECONDS = 5.0

log = logging.getLogger(__name__)


class OnnxProcess(LoadedModel):
    """One ONNX model. It answers requests in their order."""

    def __init__(self, spec: ModelSpec, process: ModelProcess, peer: socket.socket) -> None:
        self._spec = spec
        self._process = process
        self._peer = peer
        self._numbers = count()
        self._answers: dict[int, asyncio.Future[tuple[frames.Header, tuple[Tensor, ...]]]] = {}
        self._writing = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._ended = ""

    async def open(self) -> None:
        """Connect and wait until the model is loaded.

        Raises:
            ModelLoadFailed: the process reports an error, or ended.
        """
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._peer)
        try:
            header, _ = await self._receive()
        except (EOFError, ConnectionError):
            raise ModelLoadFailed(f"{self._spec.id!r} cannot be loaded: {await self._process.wait()}") from None
        if "error" in header:
            raise ModelLoadFailed(f"{self._spec.id!r} cannot be loaded: {header['error']}")
        self.digest = header["digest"]
        self.inputs = tuple(map(frames.spec_from_json, header["inputs"]))
        self.outputs = tuple(map(frames.spec_from_json, header["outputs"]))
        self._reading = asyncio.create_task(self._read_answers())

    @property
    def alive(self) -> bool:
        """Whether the process runs and its connection is open."""
        return self._process.alive and not self._ended

    async def infer(self, inputs: Sequence[Tensor], outputs: Sequence[str]) -> tuple[Tensor, ...]:
        """Return the outputs of these names, or all outputs; see `LoadedModel.infer`."""
        header, tensors = await self._call({"op": "infer", "outputs": list(outputs)}, inputs)
        if "error" in header:
            raise InvalidRequest(f"the model {self._spec.id!r} rejects the inputs: {header['error']}", param="inputs")
        return tensors

    async def check(self) -> int:
        """Return the resident bytes of the process."""
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                header, _ = await self._call({"op": "check"})
        except TimeoutError:
            raise EngineUnavailable(f"the process of {self._spec.id!r} does not answer") from None
        return int(header["memory"])

    async def close(self) -> None:
        """End the process."""
        self._end("it was unloaded")
        await self._process.kill()
        if self._reading:
            self._reading.cancel()
        if self._writer is None:
            self._peer.close()
            return
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _call(
        self, header: frames.Header, tensors: Sequence[Tensor] = ()
    ) -> tuple[frames.Header, tuple[Tensor, ...]]:
        number = next(self._numbers)
        answer = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            # A frame is written whole, also if the request is cancelled: half of one would break the connection.
            await asyncio.shield(asyncio.ensure_future(self._write(frames.encode({**header, "id": number}, tensors))))
            result: tuple[frames.Header, tuple[Tensor, ...]] = await answer
            return result
        finally:
            self._answers.pop(number, None)
            if answer.done() and not answer.cancelled():
                answer.exception()  # also if the write failed first

    async def _write(self, parts: Sequence[Any]) -> None:
        async with self._writing:
            if self._ended or self._writer is None:
                raise self._gone()
            try:
                self._writer.writelines(parts)
                await self._writer.drain()
            except (ConnectionError, RuntimeError):  # uvloop raises RuntimeError for a closed transport
                self._end("its connection broke")
                raise self._gone() from None

    async def _read_answers(self) -> None:
        try:
            while True:
                header, tensors = await self._receive()
                if (answer := self._answers.get(header["id"])) and not answer.done():
                    answer.set_result((header, tensors))
        except (EOFError, ConnectionError):
            self._end(f"it ended with {await self._process.wait()}")
        except frames.FrameError as error:
            log.error("the process of %s sent %s", self._spec.id, error)
            self._end("it sent a malformed answer")

    async def _receive(self) -> tuple[frames.Header, tuple[Tensor, ...]]:
        header_size, body_size = frames.lengths(await self._reader.readexactly(frames.PREFIX.size))
        header = await self._reader.readexactly(header_size)
        return frames.decode(header, await self._reader.readexactly(body_size))

    def _end(self, reason: str) -> None:
        self._ended = self._ended or reason
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(self._gone())

    def _gone(self) -> EngineUnavailable:
        return EngineUnavailable(
            f"the process of the model {self._spec.id!r} does not run ({self._ended}); it is being replaced: try again",
            retry_after="1",
        )


class OnnxLoader(ModelLoader):
    """Starts processes of ONNX models."""

    class Settings(Base):
        """Limits of all processes."""

        max_output_bytes: int
        """Maximum bytes of the outputs of one request."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def load(self, spec: ModelSpec, path: Path, memory_mib: int) -> LoadedModel:
        """Start the process of a model, and run it once; see `ModelLoader.load`."""
        ours, theirs = socket.socketpair()
        arguments = ["--socket", str(theirs.fileno()), "--folder", str(path), "--memory", str(memory_mib)]
        arguments += ["--digest", spec.digest, "--kind", spec.kind, "--threads", str(max(1, spec.threads))]
        arguments += ["--max-output", str(self._settings.max_output_bytes)]
        try:
            process = ModelProcess.start(MODULE, arguments, [theirs.fileno()])
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        model = OnnxProcess(spec, process, ours)
        try:
            await model.open()
            await probes.warm_up(model)
            model.batchable = spec.max_batch > 1 and await probes.rows_are_independent(model)
        except EngineUnavailable as error:
            await model.close()
            raise ModelLoadFailed(f"{spec.id!r} cannot be loaded: {error.message}") from error
        except BaseException:
            await model.close()
            raise
        return model
