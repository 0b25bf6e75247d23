"""The listener: connection settings, filter order, access logs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from drw.agent import clients
from drw.agent.native_filter import CALLER_METADATA, NATIVE_FILTER
from drw.agent.xds.builders import Json, address, extension, private_address, typed
from drw.agent.xds.clusters import TRACES
from drw.agent.xds.http_filters import body_extraction, filters, local_replies
from drw.agent.xds.http_filters.deny_list import BLOCKED, MODELS
from drw.kernel.runtime.settings import Connections

NAME = "drw"
MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
CEL = extension("envoy.formatter.cel", typed("envoy.extensions.formatter.cel.v3.Cel"))
TRACE_SECONDS = "1s"
HANDSHAKE_TIMEOUT = "5s"
"""Time-out of the TLS handshake."""
HEADERS_TIMEOUT = "5s"
"""Time-out for request headers."""
FLUSH_TIMEOUT = "30s"
"""Time-out for a client that does not read the end of a response."""
DRAIN_TIMEOUT = "1s"
"""Time that an idle HTTP/2 connection stays open after GOAWAY."""
STALLED_TIMEOUT = "120s"
"""Time-out for a client that does not read a full response buffer."""
REQUEST_TIMEOUT = "900s"
"""Time-out for the whole request: the largest upload at 600 kB/s. It bounds slow uploads."""

MAX_PATH_LENGTH = 512
LOGGED_PATH = f"%CEL(request.url_path.contains('.eyJ') ? '(a key)' : request.url_path):{MAX_PATH_LENGTH}%"
"""The logged path: truncated, without query, and omitted if it contains an API key.

The second part of every key starts with this: JSON in base64.
"""


def _coalesce(*operators: str) -> str:
    parts = [dict(zip(("command", "param"), operator.rstrip(")").split("("), strict=False)) for operator in operators]
    return f"%COALESCE({json.dumps({'operators': parts})})%"


def _trace_id(*, traced: bool) -> str:
    """Return the source of the trace id: Envoy if tracing is on, else the responding service."""
    return _coalesce("TRACE_ID", "RESP(X-TRACE-ID)") if traced else "%RESP(X-TRACE-ID)%"


LOG_FIELDS = {
    "at": "%START_TIME(%Y-%m-%dT%H:%M:%S.%6fZ)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    **{name: f"%REQ({header})%" for name, header in body_extraction.IDENTITY_HEADERS.items()},
    "path": LOGGED_PATH,
    "path_length": "%CEL(size(request.url_path))%",
    "method": "%REQ(:METHOD)%",
    "route": "%ROUTE_NAME%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "ms": "%DURATION%",
    "first_byte_ms": "%RESPONSE_DURATION%",
    # First byte in to first byte upstream, and the same for the response: the latency of Envoy.
    "before_us": "%COMMON_DURATION(DS_RX_BEG:US_TX_BEG:us)%",
    # The first includes waiting for a buffered body, which ends after this time.
    "received_us": "%COMMON_DURATION(DS_RX_BEG:DS_RX_END:us)%",
    "after_us": "%COMMON_DURATION(US_RX_BEG:DS_TX_BEG:us)%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
    "upstream": "%UPSTREAM_CLUSTER%",
    "upstream_host": "%UPSTREAM_HOST%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
}
"""Fields of the access log: caller, request, outcome, duration; never a key or a body."""

NUMBER_FIELDS = ("status", "ms", "bytes_in", "bytes_out", "attempts")
"""Fields that are always present."""

CALLER_FIELDS = (*body_extraction.IDENTITY_HEADERS, "request_id", "method", "path", "path_length")
"""Fields that identify the caller, or that the caller chooses."""


def _log_line(fields: Mapping[str, str]) -> str:
    """Return the log line as text, which Envoy formats faster; optional numbers are strings.

    Fields chosen by the caller are escaped by the native filter.
    """
    formatted = {name: value for name, value in fields.items() if name not in CALLER_FIELDS}
    parts = [f'"{name}":' + (value if name in NUMBER_FIELDS else f'"{value}"') for name, value in formatted.items()]
    return f"{{{','.join(parts)},%DYNAMIC_METADATA({CALLER_METADATA}:line)%}}\n"


USAGE_FIELDS = {
    **{name: LOG_FIELDS[name] for name in ("at", "request_id", "route", "status", "flags")},
    **{
        name: f"%DYNAMIC_METADATA({body_extraction.USAGE_METADATA}:{name})%"
        for name in (*body_extraction.IDENTITY_HEADERS, *body_extraction.TOKEN_FIELDS.values())
    },
    "model": _coalesce(
        f"DYNAMIC_METADATA({body_extraction.USAGE_METADATA}:model)",
        f"DYNAMIC_METADATA({body_extraction.NAMESPACE}:model)",
    ),
    "upstream": "%UPSTREAM_METADATA(drw:upstream)%",
    "bytes_in": "%BYTES_RECEIVED%",
}
"""Fields of the usage log: caller and tokens of a request to a third-party upstream."""


class LogPaths(NamedTuple):
    """Log files of a listener."""

    identified: str
    """Log of verified callers."""
    anonymous: str
    """Log of all other requests, separate so that they cannot displace lines of verified callers."""
    usage: str
    """Usage of third-party upstreams."""


def listener(
    listen: str,
    logs: LogPaths,
    otlp_endpoint: str,
    dynamic_filters: Mapping[str, Json],
    routes: Json,
    connections: Connections,
    first_filters: Sequence[Json] = (),
    transport_socket: Json | None = None,
    *,
    operators: bool = False,
) -> Json:
    """Return the listener, with dynamic filters (by name) and routes inline or as references.

    With a TLS socket it terminates TLS. The operators' listener has its own connection limit. All else is the same.
    """
    trace = {"trace_id": _trace_id(traced=bool(otlp_endpoint))}
    manager = typed(
        MANAGER,
        stat_prefix="drw",
        http_filters=[*first_filters, *_http_filters(dynamic_filters)],
        local_reply_config=local_replies.local_replies(),
        access_log=[
            _log(logs.identified, _text(_log_line(LOG_FIELDS | trace))) | {"filter": _identified()},
            _log(logs.anonymous, _json(LOG_FIELDS | trace)) | {"filter": _anonymous()},
            _log(logs.usage, _json(USAGE_FIELDS | trace))
            | {"filter": _metadata_present(body_extraction.USAGE_METADATA, "key")},
        ],
        **routes,
        **_http_options(connections.idle_seconds),
        **(_tracing(otlp_endpoint) if otlp_endpoint else {}),
    )
    handshake = {"transport_socket": transport_socket, "transport_socket_connect_timeout": HANDSHAKE_TIMEOUT}
    return typed(
        "envoy.config.listener.v3.Listener",
        name=f"{NAME}.operators" if operators else f"{NAME}.tls" if transport_socket else NAME,
        address=private_address(listen) if operators else address(listen),
        enable_reuse_port=False,  # otherwise a second Envoy would silently share the port
        per_connection_buffer_limit_bytes=1 << 20,
        # Limits the memory of a client that does not read.
        per_connection_buffer_high_watermark_timeout=STALLED_TIMEOUT,
        filter_chains=[_network_filters(manager, connections, operators) | (handshake if transport_socket else {})],
        **({"ignore_global_conn_limit": True, "bypass_overload_manager": True} if operators else {}),
    )


def _network_filters(manager: Json, connections: Connections, operators: bool) -> Json:
    operator_limit = typed(
        "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit",
        stat_prefix="operators",
        max_connections=connections.operators,
    )
    operators_filter = extension("envoy.filters.network.connection_limit", operator_limit)
    limit = operators_filter if operators else clients.per_client(connections.per_client)
    return {"filters": [limit, extension("http", manager)]}


def _http_filters(dynamic_filters: Mapping[str, Json]) -> list[Json]:
    return [
        dynamic_filters[filters.KEYS],
        dynamic_filters[filters.IDENTITY],
        filters.reroute_by_caller(),
        dynamic_filters[NATIVE_FILTER],
        dynamic_filters[BLOCKED],
        filters.drain(),
        filters.body_size_filter(),
        filters.body(),
        dynamic_filters[MODELS],
        filters.route_filters(),
        filters.router(),
    ]


def _http_options(idle_seconds: int) -> Json:
    return {
        "server_name": "drw",
        "use_remote_address": True,
        "generate_request_id": True,
        "always_set_request_id_in_response": True,
        "normalize_path": True,
        "merge_slashes": True,
        # Routes, scopes and services then see the same path; ids may contain slashes, and ".." is resolved.
        "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD",
        "http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": "drw"},
        "max_request_headers_kb": 60,
        "early_header_mutation_extensions": [filters.strip()],
        "request_headers_timeout": HEADERS_TIMEOUT,
        "request_timeout": REQUEST_TIMEOUT,
        "stream_idle_timeout": "300s",
        "stream_flush_timeout": FLUSH_TIMEOUT,
        "drain_timeout": DRAIN_TIMEOUT,
        "http2_protocol_options": {
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 1 << 18,
            "initial_connection_window_size": 1 << 20,
        },
        "common_http_protocol_options": {
            "headers_with_underscores_action": "REJECT_REQUEST",
            "idle_timeout": f"{idle_seconds}s",
            "max_headers_count": 100,
        },
    }


def _log(path: str, log_format: Json) -> Json:
    message = typed("envoy.extensions.access_loggers.file.v3.FileAccessLog", path=path, log_format=log_format)
    return extension("envoy.access_loggers.file", message)


def _json(fields: Mapping[str, str]) -> Json:
    return {"json_format": dict(fields), "formatters": [CEL]}


def _text(line: str) -> Json:
    return {"text_format_source": {"inline_string": line}, "omit_empty_values": True}


def _identified() -> Json:
    """Return the log filter for verified callers. Requests with revoked keys (401) do not count as verified."""
    return {"and_filter": {"filters": [_status("NE", 401), _metadata_present(CALLER_METADATA, "line")]}}


def _anonymous() -> Json:
    return {"or_filter": {"filters": [_status("EQ", 401), _metadata_absent(CALLER_METADATA, "line")]}}


def _metadata_present(namespace: str, key: str) -> Json:
    return _metadata_filter(namespace, key, {"present_match": True}, absent=False)


def _metadata_absent(namespace: str, key: str) -> Json:
    # This filter ignores `invert` of a matcher; a string is not null.
    return _metadata_filter(namespace, key, {"null_match": {}}, absent=True)


def _metadata_filter(namespace: str, key: str, value: Json, *, absent: bool) -> Json:
    matcher = {"filter": namespace, "path": [{"key": key}], "value": value}
    return {"metadata_filter": {"matcher": matcher, "match_if_key_not_found": absent}}


def _status(comparison: str, status: int) -> Json:
    value = {"default_value": status, "runtime_key": f"drw.log.{status}"}
    return {"status_code_filter": {"comparison": {"op": comparison, "value": value}}}


def _tracing(endpoint: str) -> Json:
    uri = {"uri": f"{endpoint.rstrip('/')}/v1/traces", "cluster": TRACES, "timeout": TRACE_SECONDS}
    config = typed(
        "envoy.config.trace.v3.OpenTelemetryConfig", http_service={"http_uri": uri}, service_name="drw-gateway"
    )
    tracing = {
        "random_sampling": {"value": 100},
        "spawn_upstream_span": True,
        "max_path_tag_length": 0,
        "custom_tags": [{"tag": "url.path", "value": LOGGED_PATH}],
        "provider": extension("envoy.tracers.opentelemetry", config),
    }
    return {"tracing": tracing}
