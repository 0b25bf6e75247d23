"""The llama.cpp server, configured for one machine and for several tenants."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

# Read when the native library loads. By default, OpenMP's threads spin while they wait for work. With other load on
# the same cores the engine then drops from 40 to 5 tokens a second; a limit of the spins avoids that.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

log = logging.getLogger(__name__)

PROMPT_BATCH = 256
"""Prompt tokens per batch. Between batches, other slots generate tokens and disconnected callers are noticed."""
IO_SECONDS = 300
QUIET = 1


def serve(model: Path, socket: Path, slots: int, context: int, threads: int, stop: Collection[signal.Signals]) -> None:
    """Serve until one of the signals arrives, then end the process.

    Raises:
        RuntimeError: the file is not a model, or the socket cannot be bound.
    """
    import xllamacpp

    socket.unlink(missing_ok=True)
    os.umask(0o077)  # only this user can open the socket
    started_at = time.monotonic()
    server = xllamacpp.Server(_parameters(model, socket, slots, context, threads))
    seconds = round(time.monotonic() - started_at, 2)
    fields = {"model": model.name, "socket": str(socket), "slots": slots, "context": context, "load_seconds": seconds}
    log.info("ready", extra={"fields": fields})
    signal.sigwait(stop)
    socket.unlink(missing_ok=True)
    log.info("stopped", extra={"fields": {"address": server.listening_address}})
    # The server's own shutdown waits half a minute for running requests.
    os._exit(0)


def _parameters(model: Path, socket: Path, slots: int, context: int, threads: int) -> Any:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.hostnames = [str(socket)]
    parameters.offline = True
    parameters.n_parallel = slots
    parameters.n_ctx = context
    parameters.n_batch = parameters.n_ubatch = PROMPT_BATCH
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    parameters.cache_ram_mib = 0  # the cache is shared by all tenants
    parameters.cache_idle_slots = False
    parameters.use_jinja = True
    parameters.ui = False
    parameters.endpoint_slots = False  # shows prompts of other tenants
    parameters.cors_origins = ""
    parameters.timeout_read = parameters.timeout_write = IO_SECONDS
    parameters.verbosity = QUIET
    return parameters
