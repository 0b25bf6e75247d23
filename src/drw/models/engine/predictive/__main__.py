"""Runs one model: `python -m drw.models.engine.predictive --socket FD --folder PATH --digest SHA256 --memory MIB`.

Reads requests from the inherited socket and answers in order. Ends when the socket closes, above its memory limit, or
with its parent process.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from drw.tensors import frames
from drw.tensors.datatypes import Tensor

PR_SET_PDEATHSIG = 1
NOT_ENOUGH_MEMORY = 9


def main(arguments: Sequence[str]) -> int:
    """Load the model, report its inputs and outputs, then answer requests."""
    options = _parse_options(arguments)
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal; serving ends this process
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call
        return 1
    connection = _Connection(socket.socket(fileno=options.socket))
    from drw.models.engine import memory

    memory.limit(options.memory)
    try:
        return _serve(connection, options)
    except MemoryError:
        return NOT_ENOUGH_MEMORY
    except (BrokenPipeError, ConnectionResetError, EOFError):
        return 0


def _serve(connection: _Connection, options: argparse.Namespace) -> int:
    from drw.model_files.errors import ModelRejected
    from drw.model_files.inspection import inspect
    from drw.models.engine.predictive.cross_encoder import CrossEncoder
    from drw.models.engine.predictive.onnx_session import OnnxSession, RequestRejected, UnsupportedModel

    try:
        inspection = inspect(options.folder)
        if options.digest and inspection.manifest.digest != options.digest:
            raise UnsupportedModel(f"the files have the digest {inspection.manifest.digest}, not {options.digest}")
        model = OnnxSession(_model_file(options.folder), options.threads)
        session = CrossEncoder(model, options.folder) if options.kind == "reranker" else model
    except (ModelRejected, UnsupportedModel, OSError) as error:
        connection.send({"error": str(error)})
        return 1
    specs = {
        "inputs": [frames.spec_to_json(spec) for spec in session.inputs],
        "outputs": [frames.spec_to_json(spec) for spec in session.outputs],
    }
    connection.send({"ready": True, "digest": inspection.manifest.digest, **specs})
    while True:
        header, tensors = connection.receive()
        answer: frames.Header = {"id": header["id"]}
        outputs: list[Tensor] = []
        if header["op"] == "infer":
            try:
                outputs = session.run(tensors, header["outputs"])
                if (size := sum(len(output.data) for output in outputs)) > options.max_output:
                    outputs = []
                    answer["error"] = f"the outputs have {size} bytes; at most {options.max_output}"
            except RequestRejected as error:
                answer["error"] = str(error)
        else:
            answer["memory"] = memory_bytes()
        connection.send(answer, outputs)


def memory_bytes() -> int:
    """Return the resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def _model_file(folder: Path) -> Path:
    """Return the model in a folder: its only ONNX file, or `model.onnx`."""
    from drw.models.engine.predictive.onnx_session import UnsupportedModel

    if folder.is_file():
        return folder
    files = sorted(folder.rglob("*.onnx"))
    named = [file for file in files if file.name == "model.onnx"]
    if len(files) == 1 or len(named) == 1:
        return (named or files)[0]
    raise UnsupportedModel(f"the folder has {len(files)} ONNX files; one of them must have the name model.onnx")


class _Connection:
    """Blocking frames over the socket."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        self._peer.setblocking(True)

    def send(self, header: frames.Header, tensors: Sequence[Tensor] = ()) -> None:
        for part in frames.encode(header, tensors):
            self._peer.sendall(part)

    def receive(self) -> tuple[frames.Header, tuple[Tensor, ...]]:
        header_size, body_size = frames.lengths(bytes(self._read(frames.PREFIX.size)))
        header = bytes(self._read(header_size))
        return frames.decode(header, self._read(body_size))

    def _read(self, size: int) -> memoryview:
        view, offset = memoryview(bytearray(size)), 0
        while offset < size:
            if not (count := self._peer.recv_into(view[offset:])):
                raise EOFError
            offset += count
        return view


def _parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m drw.models.engine.predictive", description="Run one ONNX model.")
    parser.add_argument("--socket", type=int, required=True, help="the inherited file descriptor")
    parser.add_argument("--folder", type=Path, required=True, help="the files of the model")
    parser.add_argument("--kind", choices=("predictive", "reranker"), default="predictive")
    parser.add_argument("--digest", default="", help="the expected digest of the files")
    parser.add_argument("--memory", type=int, required=True, help="maximum MiB of anonymous memory")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-output", type=int, default=64 << 20, help="maximum bytes of all outputs of a request")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
