"""What an upstream may be, besides its addresses."""

from __future__ import annotations

import re

from drw.api.gateway.v1.load_balancer_pb2 import Upstream
from drw.kernel.errors import InvalidRequest
from drw.kernel.validation import between, check_name, one_of

CREDENTIAL = re.compile(r"[A-Za-z0-9_-]{1,63}")
BALANCING = ("least_request", "ring_hash", "round_robin", "random")
MAX_ADDRESSES = 64
MAX_WHEN_GONE = 300
MOST = {
    "connect_ms": 60_000,
    "max_connections": 100_000,
    "max_pending": 100_000,
    "max_requests": 100_000,
    "retry_percent": 100,
    "eject_after": 1_000,
    "eject_ms": 3_600_000,
}
"""The most of each number; none is below 0, which means the default."""


def check(upstream: Upstream) -> None:
    """Return where all is well.

    Raises:
        InvalidRequest: a field has a wrong value; the message says what would be right.
    """
    check_name(upstream.name)
    if not 1 <= len(upstream.addresses) <= MAX_ADDRESSES:
        raise InvalidRequest(f"an upstream has 1 to {MAX_ADDRESSES} addresses", param="addresses")
    if len(set(upstream.addresses)) != len(upstream.addresses):
        raise InvalidRequest("an address is given twice", param="addresses")
    if upstream.services:
        raise InvalidRequest("services are those of the platform's own processes: leave it out", param="services")
    _check_words(upstream)
    for field, most in MOST.items():
        between(getattr(upstream, field), 0, most, field)


def _check_words(upstream: Upstream) -> None:
    if upstream.balancing:
        one_of(upstream.balancing, BALANCING, "balancing")
    if upstream.credential and not CREDENTIAL.fullmatch(upstream.credential):  # which is not repeated: it may be a key
        raise InvalidRequest(
            "credential is the name of a file (letters, digits, '-' and '_'), never the key itself", param="credential"
        )
    if len(upstream.when_gone) > MAX_WHEN_GONE or not upstream.when_gone.isprintable():
        raise InvalidRequest(f"when_gone has at most {MAX_WHEN_GONE} printable characters", param="when_gone")
    if upstream.tls and any(address.startswith("unix:") for address in upstream.addresses):
        raise InvalidRequest("tls is for addresses with a host: a Unix socket needs none", param="tls")
