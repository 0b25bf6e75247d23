"""Runs one model: `python -m drw.models.engine --model GGUF --socket PATH --slots N --context TOKENS --memory MIB`.

Logs one line when it is ready. Ends on SIGTERM, above its memory limit, or with its parent process.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

STOP = (signal.SIGTERM, signal.SIGINT)
PR_SET_PDEATHSIG = 1
MAX_SOCKET_BYTES = 100


def main(arguments: Sequence[str]) -> int:
    """Serve until a stop signal ends the process; return only if the start fails."""
    options = _parse_options(arguments)
    parent = os.getppid()
    # Before the engine starts threads, so that each of them leaves these signals to `sigwait`.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    _stop_with(parent)
    from drw.kernel.observability import telemetry
    from drw.models.engine import memory
    from drw.models.engine.server import serve

    telemetry.set_up("engine")
    if options.memory:
        memory.limit(options.memory)
    try:
        serve(options.model, options.socket, options.slots, options.context, options.threads, STOP)
    except RuntimeError as error:
        print(f"drw engine: {options.model} cannot be served: {error}", file=sys.stderr)
    return 1


def _parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m drw.models.engine", description="Serve one chat model.")
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--socket", type=_socket, required=True, help="where to listen: NAME.sock, under 100 bytes")
    parser.add_argument("--slots", type=_positive, default=4, help="concurrent requests")
    parser.add_argument("--context", type=_positive, default=8192, help="tokens of context, shared by all slots")
    parser.add_argument(
        "--memory", type=_positive, help="maximum MiB of anonymous memory; above it, the process exits with code 9"
    )
    parser.add_argument("--threads", type=_positive, default=os.cpu_count() or 2)
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def _socket(text: str) -> Path:
    if not text.endswith(".sock") or len(text.encode()) >= MAX_SOCKET_BYTES:  # the server takes others for host names
        raise argparse.ArgumentTypeError(f"{text} must end in .sock and have fewer than {MAX_SOCKET_BYTES} bytes")
    return Path(text)


def _stop_with(parent: int) -> None:
    """Let the kernel send SIGTERM when the parent dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the call
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
