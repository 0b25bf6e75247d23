"""What a library raises where the other end of a connection goes away in the middle of a call.

Services raise `Unavailable` by themselves where they expect it. Wherever it comes up besides, it is no fault of ours
either: the caller gets a 503 and may try again.
"""

from __future__ import annotations

import aiohttp
import psycopg
import redis.exceptions

from drw.kernel.errors import Unavailable

LOST = (
    ConnectionError,
    aiohttp.ClientConnectionError,
    aiohttp.ClientPayloadError,
    psycopg.InterfaceError,
    psycopg.OperationalError,
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
)


def unavailable(service: str = "") -> Unavailable:
    """Return what the caller is told."""
    what = f"the {service} service lost" if service else "the service lost"
    return Unavailable(f"{what} a part that it needs, in the middle of the call: try again")
