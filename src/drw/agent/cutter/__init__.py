"""The filter that refuses, limits and cuts: a small module inside Envoy.

It refuses whoever is blocked, over a limit of requests or without a scope, and bodies that are too large; it cuts the
streams of whoever is killed, and takes headers off at the boundary to third parties. cutter.c and the files beside it
say how; `drw generate` makes a library of them for each platform. Docs: decisions 8, 9 and 12 in docs/decisions.
"""

from __future__ import annotations

import functools
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from drw.agent.cutter.siphash import siphash
from drw.agent.xds.builders import Json, typed
from drw.agent.xds.http_filters import request_limits
from drw.api.gateway.v1.rate_limiting_pb2 import Block
from drw.api.gateway.v1.request_router_pb2 import Configuration

CUTTER = "drw.cutter"
BOUNDARY = "drw.boundary"
MODULE = "envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter"
NOTED = "drw.caller"
"""The metadata in which it notes for the access log who calls, and what."""

REVOKED, KILLED, MONEY, TOKENS = "r", "k", "m", "t"
LETTERS = {Block.KILLED: KILLED, Block.MONEY: MONEY, Block.TOKENS: TOKENS}
ORDER = (KILLED, REVOKED, MONEY, TOKENS)
"""What must be cut comes first: there is room for so many, and nothing else cuts."""

REFUSED, CUT, LACKS_SCOPE = "drw_refused_", "drw_cut", "drw_lacks_scope"
"""How the details of its answers begin, by which local replies know them."""

MOST = 1 << 17
"""Lines that the module has room for; who is beyond, the other filter refuses."""

ANYBODY, ANY_KEY, ONE_OF = "a", "k", "s"
"""Who may take a route."""

SEED = bytes(16)
"""For who needs none that nobody else knows."""


def cutter(configuration: Configuration, seed: bytes = SEED) -> Json:
    """Return the filter with the limits and the list of who is blocked; the seed of their hashes has 16 bytes.

    A configuration of this kind is in force within milliseconds however long it is, which those of Envoy's own filters
    are not; `drw.agent.xds.http_filters.deny_list` makes the same refusals with them, for good.
    Only what is killed is cut.
    """
    hashed = functools.partial(_hashed, seed)
    entries = [(LETTERS.get(block.reason, KILLED), hashed(_subject(block, hashed))) for block in configuration.blocks]
    entries += [(REVOKED, hashed(f"revoked\n\n{key}")) for key in configuration.credentials.revoked]
    limits = request_limits.lines(configuration.limits, hashed)
    text = request_limits.head(configuration.limits, seed, len(limits)) + "".join(limits) + _text(entries)
    return _filter(CUTTER, text)


def boundary(request: Sequence[str], answer: Sequence[str]) -> Json:
    """Return the filter that takes headers off; a name that ends in '-' stands for all that begin so."""
    return _filter(BOUNDARY, f"{' '.join(request)}\n{' '.join(answer)}")


def route(who: str, most: int, scopes: Iterable[str] = ()) -> Json:
    """Return what a route says: ANYBODY, ANY_KEY or ONE_OF who holds a scope, and the most bytes of a body."""
    text = f"{who}{most:016x}" + "".join(f"\n{scope}" for scope in scopes)
    return typed(
        f"{MODULE}PerRoute", dynamic_module_config=_loaded(), per_route_config_name=CUTTER, filter_config=_text_of(text)
    )


def _filter(name: str, text: str) -> Json:
    return typed(MODULE, dynamic_module_config=_loaded(), filter_name=name, filter_config=_text_of(text))


def _loaded() -> Json:
    # Its counts belong to the library, so it stays while there is no filter.
    return {"module": {"local": {"filename": str(library())}}, "do_not_close": True, "metrics_namespace": "drw"}


def _text_of(text: str) -> Json:
    return typed("google.protobuf.StringValue", value=text)


def library() -> Path:
    """Return the library for this platform; where there is none, Envoy refuses the configuration and says so."""
    system = {"linux": "linux", "darwin": "macos"}.get(sys.platform, sys.platform)
    machine = {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())
    return Path(__file__).with_name(f"cutter.{machine}-{system}.so")


def _subject(block: Block, hashed: Callable[[str], str]) -> str:
    """Return the words that stand for a subject; the org of a model is in them by its hash, as in cutter.c."""
    org = (
        hashed(request_limits.subject(Block.ORG, block.org, ""))
        if block.subject == Block.MODEL and block.org
        else block.org
    )
    return request_limits.subject(block.subject, org, block.name)


@functools.lru_cache(1 << 18)
def _hashed(seed: bytes, subject: str) -> str:
    return f"{siphash(seed, subject.encode()) or 1:016x}"


def _text(entries: Iterable[tuple[str, str]]) -> str:
    ordered = sorted(set(entries), key=lambda line: (ORDER.index(line[0]), line[1]))
    return "".join(f"{letter}{subject}\n" for letter, subject in ordered[:MOST])
