"""Headers at the boundary to third parties: what an upstream that is not ours never gets, and what it cannot set.

The filter is part of the cluster, so it holds for every kind of route that ends there: pass-through, split, fallback.
It is the first that sees an answer, before anything here reads headers that only our own services set.
"""

from __future__ import annotations

from drw.agent import cutter
from drw.agent.xds.builders import Json, extension
from drw.routing.request_matching import MODEL_HEADER, PLATFORM_HEADERS

CREDENTIALS = ("authorization", "proxy-authorization", "cookie", "cookie2", "x-api-key", "api-key")
"""What a client may use to prove who it is. The upstream's own credential is set after they are removed."""

ADDRESSES = ("forwarded", "x-forwarded-", "x-real-ip")
"""Where a client called from."""

ORIGIN_WIDE = (
    "set-cookie",
    "access-control-",
    "alt-svc",
    "clear-site-data",
    "strict-transport-security",
    "nel",
    "report-to",
    "reporting-endpoints",
)
"""What a browser applies to the gateway as a whole, not to one answer."""

OURS = ("x-ratelimit-", "ratelimit", "ratelimit-", "x-trace-id", "x-request-id")
"""What clients and logs take for the gateway's own word: limits, and ids of traces and requests."""


def filters() -> list[Json]:
    """Return the filters of a cluster that is a third party's. A name that ends in '-' stands for all that begin so."""
    request = (*PLATFORM_HEADERS, *CREDENTIALS, *ADDRESSES, MODEL_HEADER)
    return [extension(cutter.BOUNDARY, cutter.boundary(request, (*PLATFORM_HEADERS, *ORIGIN_WIDE, *OURS)))]
