"""The filter that cuts the streams of whoever is killed: a small module that runs inside Envoy.

cutter.c says what it does; cutter.wasm is made from it by `drw generate`. Docs: docs/decisions on cutting streams.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Iterable
from importlib import resources

from drw.agent.shapes import Json, typed
from drw.api.gateway.v1.rate_limiting_pb2 import Block
from drw.api.gateway.v1.request_router_pb2 import Configuration

CUTTER = "drw.cutter"
WASM = "envoy.extensions.filters.http.wasm.v3.Wasm"
MODULE = "cutter.wasm"

KINDS = {Block.KEY: "key", Block.DESK: "desk", Block.ORG: "org", Block.MODEL: "model"}

FNV_OFFSET, FNV_PRIME = 14695981039346656037, 1099511628211


def cutter(configuration: Configuration) -> Json:
    """Return the filter with the list of who is killed.

    Who is over a limit finishes what is under way; a model's streams are known by the header `x-drw-model`.
    """
    lines = sorted(_subject(block) for block in configuration.blocks if block.reason == Block.KILLED)
    machine = {
        "vm_id": CUTTER,
        "runtime": "envoy.wasm.runtime.v8",
        "code": {"local": {"inline_bytes": _module()}},
    }
    config = {
        "name": CUTTER,
        "root_id": CUTTER,
        "vm_config": machine,
        "configuration": typed("google.protobuf.StringValue", value=_text(lines)),
        # Without it a fault in the module would refuse every request; new calls are refused by another filter.
        "failure_policy": "FAIL_OPEN",
    }
    return typed(WASM, config=config)


def fnv(data: bytes) -> int:
    """Return the 64-bit FNV-1a hash (Fowler, Noll, Vo; RFC 9923) of some bytes."""
    found = FNV_OFFSET
    for byte in data:
        found = ((found ^ byte) * FNV_PRIME) & (1 << 64) - 1
    return found


def _subject(block: Block) -> str:
    kind = KINDS[block.subject]
    text = f"{kind}\n{block.org}\n{block.name}"
    return f"{fnv(text.encode()):016x}"


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in dict.fromkeys(lines))


@functools.cache
def _module() -> str:
    return base64.b64encode(resources.files(__package__).joinpath(MODULE).read_bytes()).decode()
