"""The listener: how connections and requests are read, in which order the filters stand, what is logged."""

from __future__ import annotations

import json
from collections.abc import Mapping

from drw.agent import bodies, filters, replies
from drw.agent.blocked import BLOCKED, MODELS
from drw.agent.clusters import TRACES
from drw.agent.cutter import CUTTER
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


def _either(*operators: str) -> str:
    found = [dict(zip(("command", "param"), operator.rstrip(")").split("("), strict=False)) for operator in operators]
    return f"%COALESCE({json.dumps({'operators': found})})%"


LOGGED = {
    "at": "%START_TIME(%Y-%m-%dT%H:%M:%S.%6fZ)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "trace_id": _either("TRACE_ID", "RESP(X-TRACE-ID)"),
    **{
        name: _either(f"REQ({header})", f"DYNAMIC_METADATA({bodies.USAGE}:{name})")
        for name, header in bodies.IDENTITY.items()
    },
    "method": "%REQ(:METHOD)%",
    "path": PATH,
    "route": "%ROUTE_NAME%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "ms": "%DURATION%",
    "first_byte_ms": "%RESPONSE_DURATION%",
    # From the request's first byte to its first byte upstream, and the same of the answer: what Envoy adds.
    "before_us": "%COMMON_DURATION(DS_RX_BEG:US_TX_BEG:us)%",
    # In the first is the wait for the body, where Envoy must have all of it: that ends after so long.
    "received_us": "%COMMON_DURATION(DS_RX_BEG:DS_RX_END:us)%",
    "after_us": "%COMMON_DURATION(US_RX_BEG:DS_TX_BEG:us)%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
    "upstream": "%UPSTREAM_CLUSTER%",
    "upstream_host": "%UPSTREAM_HOST%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
}
"""One line of the access log: who, what, how it ended and how long it took; never a key or a body."""

METERED = {
    **{name: LOGGED[name] for name in ("at", "request_id", "trace_id", "route", "status", "flags")},
    **{name: f"%DYNAMIC_METADATA({bodies.USAGE}:{name})%" for name in (*bodies.IDENTITY, *bodies.COUNTS.values())},
    "model": _either(f"DYNAMIC_METADATA({bodies.USAGE}:model)", f"DYNAMIC_METADATA({bodies.NAMESPACE}:model)"),
    "upstream": "%UPSTREAM_METADATA(drw:upstream)%",
    "bytes_in": "%BYTES_RECEIVED%",
}
"""One line of the log of usage: what a request to an upstream of others cost, and whom."""


def listener(
    listen: str,
    logs: tuple[str, str],
    otlp_endpoint: str,
    changing: Mapping[str, Json],
    routes: Json,
    socket: Json | None = None,
) -> Json:
    """Return the listener, with the filters that change (by name) and the routes, or with where they come from.

    The logs are that of all requests, and that of what an upstream of others counted. With a socket it is the one
    that speaks TLS; all else is the same.
    """
    manager = typed(
        MANAGER,
        stat_prefix="drw",
        http_filters=_chain(changing),
        local_reply_config=replies.local_replies(),
        access_log=[_log(logs[0], LOGGED), _log(logs[1], METERED) | {"filter": _metered()}],
        **routes,
        **_reading(),
        **(_tracing(otlp_endpoint) if otlp_endpoint else {}),
    )
    return typed(
        "envoy.config.listener.v3.Listener",
        name=f"{NAME}.tls" if socket else NAME,
        address=address(listen),
        enable_reuse_port=False,  # with it a second Envoy would share the port in silence
        per_connection_buffer_limit_bytes=1 << 20,
        filter_chains=[{"filters": [extension("http", manager)]} | ({"transport_socket": socket} if socket else {})],
    )


def _chain(changing: Mapping[str, Json]) -> list[Json]:
    return [
        changing[filters.KEYS],
        changing[filters.IDENTITY],
        changing[BLOCKED],
        changing[CUTTER],
        filters.known(),
        filters.scopes(),
        filters.drain(),
        filters.sizes(),
        filters.body(),
        changing[MODELS],
        filters.further(),
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
        "early_header_mutation_extensions": [filters.strip()],
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


def _log(path: str, fields: Mapping[str, str]) -> Json:
    message = typed(
        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        path=path,
        log_format={"json_format": dict(fields), "formatters": [CEL]},
    )
    return extension("envoy.access_loggers.file", message)


def _metered() -> Json:
    """Return the filter that keeps all other requests out of the log of usage, by one look at their metadata."""
    noted = {"filter": bodies.USAGE, "path": [{"key": "key"}], "value": {"present_match": True}}
    return {"metadata_filter": {"matcher": noted, "match_if_key_not_found": False}}


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
