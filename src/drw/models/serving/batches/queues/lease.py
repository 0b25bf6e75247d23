"""Leases of batches and of their requests: only the owner of the newest fencing token can write."""

from __future__ import annotations

from drw.kernel.errors import Conflict
from drw.kernel.storage import worker_lease

WORKER_LOCKS = 0x626174
"""The class of the advisory locks of workers: "bat"."""
LIVE_WORKERS = worker_lease.live_workers(WORKER_LOCKS)
"""The numbers of the live workers."""
IDLE_TRANSACTION_SECONDS = 10
"""PostgreSQL ends a transaction that is idle for longer: the process of its worker is frozen."""
LIMIT_IDLE = f"set local idle_in_transaction_session_timeout = '{IDLE_TRANSACTION_SECONDS}s'"


class LeaseLost(Conflict):
    """Another worker owns the batch or the request now, or the batch was cancelled; nothing was written."""
