"""The llama.cpp server with settings that suit one machine and nobody else's eyes."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

# Read when the native library is loaded. OpenMP's threads spin for work by default, and with anything
# else running on the same cores the engine falls from 40 to 5 tokens a second; this many spins do not.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

log = logging.getLogger(__name__)

PROMPT_BATCH = 256
"""Tokens of prompt read at a time: between two batches others get their next token, and a caller who left is seen."""
IO_SECONDS = 300
QUIET = 1


def serve(model: Path, socket: Path, slots: int, context: int, threads: int, stop: Collection[signal.Signals]) -> None:
    """Serve until one of the signals comes, then end the process.

    Raises:
        RuntimeError: the file is not a model, or the socket cannot be had.
    """
    import xllamacpp

    socket.unlink(missing_ok=True)
    os.umask(0o077)  # the socket is for this user alone
    began = time.monotonic()
    server = xllamacpp.Server(_parameters(model, socket, slots, context, threads))
    seconds = round(time.monotonic() - began, 2)
    fields = {"model": model.name, "socket": str(socket), "slots": slots, "context": context, "load_seconds": seconds}
    log.info("ready", extra={"fields": fields})
    signal.sigwait(stop)
    socket.unlink(missing_ok=True)
    log.info("stopped", extra={"fields": {"address": server.listening_address}})
    # The server's own end waits half a minute for answers under way, and there is nothing to save.
    os._exit(0)


def _parameters(model: Path, socket: Path, slots: int, context: int, threads: int) -> Any:
    import xllamacpp

    chosen = xllamacpp.CommonParams()
    chosen.model.path = str(model)
    chosen.hostnames = [str(socket)]
    chosen.offline = True
    chosen.n_parallel = slots
    chosen.n_ctx = context
    chosen.n_batch = chosen.n_ubatch = PROMPT_BATCH
    chosen.cpuparams.n_threads = chosen.cpuparams_batch.n_threads = threads
    chosen.cache_ram_mib = 0  # it would hand one tenant's prompts to another
    chosen.cache_idle_slots = False
    chosen.use_jinja = True
    chosen.ui = False
    chosen.endpoint_slots = False  # would show what others' requests are made of
    chosen.cors_origins = ""
    chosen.timeout_read = chosen.timeout_write = IO_SECONDS
    chosen.verbosity = QUIET
    return chosen
