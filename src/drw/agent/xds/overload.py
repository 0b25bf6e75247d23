"""The overload manager: Envoy's behaviour when it runs out of memory or connections.

Envoy limits connections, but its overload actions cannot use their number. The agent therefore writes it to a file
that Envoy watches. The fuller Envoy is, the sooner idle connections are closed; active ones stay open.
"""

from __future__ import annotations

from pathlib import Path

from drw.agent.xds.builders import Json, typed

MAX_HEAP_BYTES = 1 << 30
MIN_TIMEOUTS = {
    "HTTP_DOWNSTREAM_CONNECTION_IDLE": "1s",
    "HTTP_DOWNSTREAM_STREAM_FLUSH": "1s",
    "TRANSPORT_SOCKET_CONNECT": "1s",
}
"""Minimum time-outs under pressure: idle connections, finished responses, TLS handshakes. None of them ends an active
request."""

SCALING_START, SATURATED = 0.5, 0.9
"""Fill levels at which time-outs start to shrink, and reach their minimum."""

MONITORS = "envoy.resource_monitors"
ACTIONS = "envoy.overload_actions"


def manager(max_connections: int, pressure: str) -> Json:
    """Return the overload manager with a maximum of client connections and the file with their fill level."""
    monitors = {
        "global_downstream_max_connections": typed(
            "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
            max_active_downstream_connections=max_connections,
        ),
        "fixed_heap": typed(
            "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig", max_heap_size_bytes=MAX_HEAP_BYTES
        ),
        "injected_resource": typed(
            "envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig", filename=pressure
        ),
    }
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {"name": f"{MONITORS}.{name}", "typed_config": config} for name, config in monitors.items()
        ],
        "actions": [
            _heap_action(0.9, "shrink_heap"),
            _heap_action(0.97, "stop_accepting_requests"),
            _reduce_timeouts(),
        ],
    }


def write_fill_level(file: Path, level: float) -> None:
    """Write the connection fill level, from 0 to 1. The file is moved into place, which Envoy watches for."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = file.with_suffix(".new")
    draft.write_text(f"{min(level, 1.0):.2f}", encoding="ascii")
    draft.replace(file)


def _heap_action(fill_level: float, action: str) -> Json:
    trigger = {"name": f"{MONITORS}.fixed_heap", "threshold": {"value": fill_level}}
    return {"name": f"{ACTIONS}.{action}", "triggers": [trigger]}


def _reduce_timeouts() -> Json:
    scaled = {"scaling_threshold": SCALING_START, "saturation_threshold": SATURATED}
    factors = [{"timer": timer, "min_timeout": min_timeout} for timer, min_timeout in MIN_TIMEOUTS.items()]
    return {
        "name": f"{ACTIONS}.reduce_timeouts",
        "triggers": [{"name": f"{MONITORS}.injected_resource", "scaled": scaled}],
        "typed_config": typed("envoy.config.overload.v3.ScaleTimersOverloadActionConfig", timer_scale_factors=factors),
    }
