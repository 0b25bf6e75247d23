"""Exceptions of client libraries for connections lost during a call.

Services raise `Unavailable` where they expect it. Elsewhere these exceptions become a 503, which callers can retry.
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
    """Return the error for the caller."""
    what = f"the {service} service lost" if service else "the service lost"
    return Unavailable(f"{what} a part that it needs, in the middle of the call: try again")
