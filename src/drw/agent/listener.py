"""The listener: how connections and requests are read, in which order the filters stand, what is logged."""

from __future__ import annotations

from collections.abc import Mapping

from drw.agent import filters, replies
from drw.agent.clusters import TRACES
from drw.agent.shapes import Json, address, extension, typed

NAME = "drw"
MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
CEL = extension("envoy.formatter.cel", typed("envoy.extensions.formatter.cel.v3.Cel"))
TRACE_SECONDS = "1s"
HEADERS_TIMEOUT = "10s"
"""Within which a client must have sent all headers of a request."""
REQUEST_TIMEOUT = "900s"
"""And the whole request: the largest upload at 600 kB a second. A client that dribbles holds no stream for longer."""

PATH = "%CEL(request.url_path.contains('.eyJ') ? '(a key)' : request.url_path)%"
"""What is written down of a path: no query, and no path in which somebody put a key, for nobody should read those.

The second part of every key begins so: it is JSON in base64.
"""

LOGGED = {
    "at": "%START_TIME(%Y-%m-%dT%H:%M:%S.%6fZ)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "trace_id": "%RESP(X-TRACE-ID)%",
    "org": "%REQ(X-DRW-ORG)%",
    "desk": "%REQ(X-DRW-DESK)%",
    "key": "%REQ(X-DRW-KEY)%",
    "method": "%REQ(:METHOD)%",
    "path": PATH,
    "route": "%ROUTE_NAME%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "ms": "%DURATION%",
    "first_byte_ms": "%RESPONSE_DURATION%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
    "upstream": "%UPSTREAM_CLUSTER%",
    "upstream_host": "%UPSTREAM_HOST%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
}
"""One line of the access log: who, what, how it ended and how long it took; never a key or a body."""


def listener(listen: str, log: str, otlp_endpoint: str, changing: Mapping[str, Json], routes: Json) -> Json:
    """Return the listener, with the filters that change (by name) and the routes, or with where they come from."""
    manager = typed(
        MANAGER,
        stat_prefix="drw",
        http_filters=_chain(changing),
        local_reply_config=replies.local_replies(),
        access_log=[_log(log)],
        **routes,
        **_reading(),
        **(_tracing(otlp_endpoint) if otlp_endpoint else {}),
    )
    return typed(
        "envoy.config.listener.v3.Listener",
        name=NAME,
        address=address(listen),
        enable_reuse_port=False,  # with it a second Envoy would share the port in silence
        per_connection_buffer_limit_bytes=1 << 20,
        filter_chains=[{"filters": [extension("http", manager)]}],
    )


def _chain(changing: Mapping[str, Json]) -> list[Json]:
    return [
        filters.strip(),
        changing[filters.KEYS],
        changing[filters.REVOKED],
        filters.scopes(),
        changing[filters.LIMITS],
        filters.drain(),
        filters.sizes(),
        filters.router(),
    ]


def _reading() -> Json:
    return {
        "server_name": "drw",
        "use_remote_address": True,
        "generate_request_id": True,
        "always_set_request_id_in_response": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "max_request_headers_kb": 60,
        "request_headers_timeout": HEADERS_TIMEOUT,
        "request_timeout": REQUEST_TIMEOUT,
        "stream_idle_timeout": "300s",
        "http2_protocol_options": {
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 1 << 18,
            "initial_connection_window_size": 1 << 20,
        },
        "common_http_protocol_options": {
            "headers_with_underscores_action": "REJECT_REQUEST",
            "idle_timeout": "3600s",
            "max_headers_count": 100,
        },
    }


def _log(path: str) -> Json:
    message = typed(
        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        path=path,
        log_format={"json_format": LOGGED, "formatters": [CEL]},
    )
    return extension("envoy.access_loggers.file", message)


def _tracing(endpoint: str) -> Json:
    uri = {"uri": f"{endpoint.rstrip('/')}/v1/traces", "cluster": TRACES, "timeout": TRACE_SECONDS}
    config = typed(
        "envoy.config.trace.v3.OpenTelemetryConfig", http_service={"http_uri": uri}, service_name="drw-gateway"
    )
    tracing = {
        "random_sampling": {"value": 100},
        "spawn_upstream_span": True,
        "max_path_tag_length": 0,
        "custom_tags": [{"tag": "url.path", "value": PATH}],
        "provider": extension("envoy.tracers.opentelemetry", config),
    }
    return {"tracing": tracing}
