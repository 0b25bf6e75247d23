"""The filter that refuses, limits and cuts: a small module inside Envoy.

It refuses whoever is blocked or over a limit of requests, and cuts the streams of whoever is killed. cutter.c and
limiter.c say how; cutter.wasm is made from them by `drw generate`. Docs: decisions 8 and 9 in docs/decisions.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Iterable
from importlib import resources

from drw.agent import limiting
from drw.agent.cutter.siphash import siphash
from drw.agent.shapes import Json, typed
from drw.api.gateway.v1.rate_limiting_pb2 import Block
from drw.api.gateway.v1.request_router_pb2 import Configuration

CUTTER = "drw.cutter"
WASM = "envoy.extensions.filters.http.wasm.v3.Wasm"
MODULE = "cutter.wasm"

REVOKED, KILLED, MONEY, TOKENS = "r", "k", "m", "t"
LETTERS = {Block.KILLED: KILLED, Block.MONEY: MONEY, Block.TOKENS: TOKENS}
ORDER = (KILLED, REVOKED, MONEY, TOKENS)
"""What must be cut comes first: there is room for so many, and nothing else cuts."""

REFUSED, CUT = "drw_refused_", "drw_cut"
"""How the details of its answers begin, by which local replies know them."""

MOST = 1 << 17
"""Lines that the module has room for; who is beyond, the other filter refuses."""

SEED = bytes(16)
"""For who needs none that nobody else knows."""


def cutter(configuration: Configuration, seed: bytes = SEED) -> Json:
    """Return the filter with the limits and the list of who is blocked; the seed of their hashes has 16 bytes.

    A configuration of this kind is in force within milliseconds however long it is, which those of Envoy's own filters
    are not; `drw.agent.blocked` makes the same refusals with them, for good. Only what is killed is cut.
    """
    hashed = functools.partial(_hashed, seed)
    found = [(LETTERS.get(block.reason, KILLED), hashed(_subject(block, hashed))) for block in configuration.blocks]
    found += [(REVOKED, hashed(f"revoked\n\n{key}")) for key in configuration.credentials.revoked]
    limits = limiting.lines(configuration.limits, hashed)
    text = limiting.head(configuration.limits, seed, len(limits)) + "".join(limits) + _text(found)
    machine = {
        "vm_id": CUTTER,
        "runtime": "envoy.wasm.runtime.v8",
        "code": {"local": {"inline_bytes": _module()}},
    }
    config = {
        "name": CUTTER,
        "root_id": CUTTER,
        "vm_config": machine,
        "configuration": typed("google.protobuf.StringValue", value=text),
        # Nobody else bounds requests: a fault in the module fails the request that met it, and a new machine follows.
        "failure_policy": "FAIL_RELOAD",
    }
    return typed(WASM, config=config)


def _subject(block: Block, hashed: Callable[[str], str]) -> str:
    """Return the words that stand for a subject; the org of a model is in them by its hash, as in cutter.c."""
    org = (
        hashed(limiting.subject(Block.ORG, block.org, "")) if block.subject == Block.MODEL and block.org else block.org
    )
    return limiting.subject(block.subject, org, block.name)


@functools.lru_cache(1 << 18)
def _hashed(seed: bytes, subject: str) -> str:
    return f"{siphash(seed, subject.encode()) or 1:016x}"


def _text(found: Iterable[tuple[str, str]]) -> str:
    ordered = sorted(set(found), key=lambda line: (ORDER.index(line[0]), line[1]))
    return "".join(f"{letter}{subject}\n" for letter, subject in ordered[:MOST])


@functools.cache
def _module() -> str:
    return base64.b64encode(resources.files(__package__).joinpath(MODULE).read_bytes()).decode()
