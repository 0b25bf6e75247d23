"""The filter that refuses whoever is blocked and cuts the streams of whoever is killed: a small module inside Envoy.

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
REVOKED, KILLED, MONEY, TOKENS = "r", "k", "m", "t"
LETTERS = {Block.KILLED: KILLED, Block.MONEY: MONEY, Block.TOKENS: TOKENS}
ORDER = (KILLED, REVOKED, MONEY, TOKENS)
"""What must be cut comes first: there is room for so many, and nothing else cuts."""

REFUSED, CUT = "drw_refused_", "drw_cut"
"""How the details of its answers begin, by which local replies know them."""

MOST = 1 << 17
"""Lines that the module has room for; who is beyond, the other filter refuses."""

FNV_OFFSET, FNV_PRIME = 14695981039346656037, 1099511628211


def cutter(configuration: Configuration) -> Json:
    """Return the filter with the list of who is blocked.

    A list of this kind is in force within milliseconds however long it is, which those of Envoy's own filters are
    not; `drw.agent.blocked` makes the same refusals with them, for good. Only what is killed is cut.
    """
    found = [(LETTERS.get(block.reason, KILLED), _subject(block)) for block in configuration.blocks]
    found += [(REVOKED, _hashed(f"revoked\n\n{key}")) for key in configuration.credentials.revoked]
    machine = {
        "vm_id": CUTTER,
        "runtime": "envoy.wasm.runtime.v8",
        "code": {"local": {"inline_bytes": _module()}},
    }
    config = {
        "name": CUTTER,
        "root_id": CUTTER,
        "vm_config": machine,
        "configuration": typed("google.protobuf.StringValue", value=_text(found)),
        # A fault in the module must not refuse every request: the other filter goes on refusing the right ones.
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
    return _hashed(f"{KINDS.get(block.subject, 'key')}\n{block.org}\n{block.name}")


@functools.lru_cache(1 << 17)
def _hashed(subject: str) -> str:
    return f"{fnv(subject.encode()):016x}"


def _text(found: Iterable[tuple[str, str]]) -> str:
    ordered = sorted(set(found), key=lambda line: (ORDER.index(line[0]), line[1]))
    return "".join(f"{letter}{subject}\n" for letter, subject in ordered[:MOST])


@functools.cache
def _module() -> str:
    return base64.b64encode(resources.files(__package__).joinpath(MODULE).read_bytes()).decode()
