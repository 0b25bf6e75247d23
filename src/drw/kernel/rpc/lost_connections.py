"""Exceptions of client libraries for connections lost during a call.

Services handle expected losses. All other lost connections become `Unavailable` (503), so that callers can retry.
"""

from __future__ import annotations

import aiohttp
import psycopg
import redis.exceptions

from drw.kernel.errors import Unavailable

LOST_CONNECTION_ERRORS = (
    ConnectionError,
    aiohttp.ClientConnectionError,
    aiohttp.ClientPayloadError,
    psycopg.InterfaceError,
    psycopg.OperationalError,
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
)


def connection_lost(service: str = "") -> Unavailable:
    """Return the error for a call during which a service lost a connection."""
    name = f"the {service} service" if service else "the service"
    return Unavailable(f"{name} lost a connection during the call: try again")
