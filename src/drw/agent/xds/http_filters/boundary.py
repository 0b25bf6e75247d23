"""Headers stripped at the boundary to third parties: from requests to their upstreams, and from their responses.

The filter is part of the cluster, so it applies to every kind of route to it: pass-through, split, fallback. It runs
first on a response, before any filter reads headers that only platform services set.
"""

from __future__ import annotations

from drw.agent import native_filter
from drw.agent.xds.builders import Json, extension
from drw.routing.request_matching import MODEL_HEADER, PLATFORM_HEADERS

CREDENTIALS = ("authorization", "proxy-authorization", "cookie", "cookie2", "x-api-key", "api-key")
"""Headers with credentials of clients. The credential of the upstream is set after they are stripped."""

ADDRESSES = ("forwarded", "x-forwarded-", "x-real-ip")
"""Headers with the address of the client."""

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
"""Response headers that a browser applies to the whole origin, not to one response."""

GATEWAY_HEADERS = ("x-ratelimit-", "ratelimit", "ratelimit-", "x-trace-id", "x-request-id")
"""Response headers that only the gateway may set: limits, and the ids of traces and requests."""


def filters() -> list[Json]:
    """Return the filters of a third party's cluster. A name that ends in '-' is a prefix."""
    request = (*PLATFORM_HEADERS, *CREDENTIALS, *ADDRESSES, MODEL_HEADER)
    return [
        extension(
            native_filter.BOUNDARY,
            native_filter.boundary_config(request, (*PLATFORM_HEADERS, *ORIGIN_WIDE, *GATEWAY_HEADERS)),
        )
    ]
