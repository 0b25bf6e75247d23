"""The filter that bounds the connections of each client: a small module inside Envoy, which has no such bound itself.

clients.c says what it does; clients.wasm is made from it by `drw generate`.
"""

from __future__ import annotations

import base64
import functools
from importlib import resources

from drw.agent.xds.builders import Json, extension, typed

NAME = "drw.clients"
MODULE = "clients.wasm"
REFUSED = "wasmcustom.drw_connections_refused"
"""Where Envoy counts the connections that were closed because their client had too many."""


def per_client(max_connections: int) -> Json:
    """Return the network filter: at most so many connections at once from one client."""
    machine = {
        "vm_id": NAME,
        "runtime": "envoy.wasm.runtime.v8",
        "code": {"local": {"inline_bytes": module()}},
    }
    config = {
        "name": NAME,
        "root_id": NAME,
        "vm_config": machine,
        "configuration": typed("google.protobuf.StringValue", value=str(max_connections)),
        # A fault in the module must not refuse every connection: the bound of all together still holds.
        "failure_policy": "FAIL_OPEN",
    }
    return extension(NAME, typed("envoy.extensions.filters.network.wasm.v3.Wasm", config=config))


@functools.cache
def module() -> str:
    """Return the module in base64."""
    return base64.b64encode(resources.files(__package__).joinpath(MODULE).read_bytes()).decode()
