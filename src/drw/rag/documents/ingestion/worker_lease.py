"""Leases of indexing workers."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from drw.kernel.storage import worker_lease
from drw.kernel.storage.database import Database
from drw.kernel.storage.worker_lease import WorkerLease

WORKER_LOCKS = 0x646F63
"""The class of the advisory locks: "doc"."""
LIVE_WORKERS = worker_lease.live_workers(WORKER_LOCKS)
"""The numbers of the live workers."""


def acquired(database: Database) -> AbstractAsyncContextManager[WorkerLease]:
    """Register an indexing worker and hold its lease for the block.

    Raises:
        Unavailable: the database does not answer.
    """
    return worker_lease.acquired(database, WORKER_LOCKS)
