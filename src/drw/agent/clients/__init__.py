"""A network filter that limits the connections of each client, as a small WebAssembly module inside Envoy.

The source is clients.c; `drw generate` compiles clients.wasm.
"""

from __future__ import annotations

import base64
import functools
from importlib import resources

from drw.agent.xds.builders import Json, extension, typed

NAME = "drw.clients"
MODULE_FILE = "clients.wasm"
REJECTED_STAT = "wasmcustom.drw_connections_refused"
"""Envoy's counter of connections closed because their client had too many."""


def per_client(max_connections: int) -> Json:
    """Return the network filter with the maximum of concurrent connections per client."""
    vm_config = {
        "vm_id": NAME,
        "runtime": "envoy.wasm.runtime.v8",
        "code": {"local": {"inline_bytes": module_base64()}},
    }
    config = {
        "name": NAME,
        "root_id": NAME,
        "vm_config": vm_config,
        "configuration": typed("google.protobuf.StringValue", value=str(max_connections)),
        # Fail open: a crash of the module must not refuse every connection. The overall limit still applies.
        "failure_policy": "FAIL_OPEN",
    }
    return extension(NAME, typed("envoy.extensions.filters.network.wasm.v3.Wasm", config=config))


@functools.cache
def module_base64() -> str:
    """Return the module in base64."""
    return base64.b64encode(resources.files(__package__).joinpath(MODULE_FILE).read_bytes()).decode()
