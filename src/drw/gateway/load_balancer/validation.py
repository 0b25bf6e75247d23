"""Validation of upstreams across fields; the rules of single fields are in the contract."""

from __future__ import annotations

from drw.api.gateway.v1.load_balancer_pb2 import Upstream
from drw.kernel.errors import InvalidRequest


def check(upstream: Upstream) -> None:
    """Check an upstream that an operator sets.

    Raises:
        InvalidRequest: fields contradict each other; the message says what would be right.
    """
    if upstream.services:
        raise InvalidRequest("services is for the platform's own processes; leave it out", param="services")
    for address in upstream.addresses:
        if "://" in address:
            raise InvalidRequest(
                f"addresses has {address[:80]!r}; an address is 'host:port', without 'http://'", param="addresses"
            )
        if upstream.tls and address.startswith("unix:"):
            raise InvalidRequest(
                f"tls is set and addresses has {address[:80]!r}; a Unix socket needs no TLS", param="tls"
            )
