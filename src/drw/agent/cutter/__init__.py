"""The native HTTP filter: a dynamic module inside Envoy.

It rejects requests of blocked subjects, over a request limit, without a required scope, or with a body that is too
large. It cuts streams of killed subjects, and strips headers at the boundary to third parties. `drw generate` compiles
cutter.c and the files beside it for each platform. See decisions 8, 9 and 12 in docs/decisions.
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
"""Metadata namespace of the caller and the request, for the access log."""

REVOKED, KILLED, MONEY, TOKENS = "r", "k", "m", "t"
LETTERS = {Block.KILLED: KILLED, Block.MONEY: MONEY, Block.TOKENS: TOKENS}
CAPACITY_ORDER = (KILLED, REVOKED, MONEY, TOKENS)
"""Killed subjects come first, because capacity is limited and no other filter cuts streams."""

REFUSED, CUT, LACKS_SCOPE = "drw_refused_", "drw_cut", "drw_lacks_scope"
"""Prefix of its response code details, which local replies match on."""

MOST = 1 << 17
"""Capacity of the module in entries. The deny list filter rejects the rest."""

ANYBODY, ANY_KEY, ONE_OF = "a", "k", "s"
"""Access levels of a route."""

SEED = bytes(16)
"""For tests and dry runs, which need no secret seed."""


def cutter(configuration: Configuration, seed: bytes = SEED) -> Json:
    """Return the filter with limits and deny list; the seed of their hashes has 16 bytes.

    A configuration of any length takes effect within milliseconds, unlike those of Envoy's own filters, which
    `drw.agent.xds.http_filters.deny_list` configures with the same deny list. Only streams of killed subjects are cut.
    """
    hashed = functools.partial(_hashed, seed)
    entries = [(LETTERS.get(block.reason, KILLED), hashed(_subject(block, hashed))) for block in configuration.blocks]
    entries += [(REVOKED, hashed(f"revoked\n\n{key}")) for key in configuration.credentials.revoked]
    limits = request_limits.lines(configuration.limits, hashed)
    text = request_limits.head(configuration.limits, seed, len(limits)) + "".join(limits) + _text(entries)
    return _filter(CUTTER, text)


def boundary(request: Sequence[str], answer: Sequence[str]) -> Json:
    """Return the filter that strips headers; a name ending in '-' is a prefix."""
    return _filter(BOUNDARY, f"{' '.join(request)}\n{' '.join(answer)}")


def route(access: str, max_bytes: int, scopes: Iterable[str] = ()) -> Json:
    """Return the per-route configuration: ANYBODY, ANY_KEY or ONE_OF the scopes, and the maximum body size in bytes."""
    text = f"{access}{max_bytes:016x}" + "".join(f"\n{scope}" for scope in scopes)
    return typed(
        f"{MODULE}PerRoute", dynamic_module_config=_loaded(), per_route_config_name=CUTTER, filter_config=_text_of(text)
    )


def _filter(name: str, text: str) -> Json:
    return typed(MODULE, dynamic_module_config=_loaded(), filter_name=name, filter_config=_text_of(text))


def _loaded() -> Json:
    # The counts are in the library, so it stays loaded without a filter.
    return {"module": {"local": {"filename": str(library())}}, "do_not_close": True, "metrics_namespace": "drw"}


def _text_of(text: str) -> Json:
    return typed("google.protobuf.StringValue", value=text)


def library() -> Path:
    """Return the library for this platform. If it is missing, Envoy rejects the configuration."""
    system = {"linux": "linux", "darwin": "macos"}.get(sys.platform, sys.platform)
    machine = {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())
    return Path(__file__).with_name(f"cutter.{machine}-{system}.so")


def _subject(block: Block, hashed: Callable[[str], str]) -> str:
    """Return the hash input of a subject, with the org of a model hashed, as in cutter.c."""
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
    ordered = sorted(set(entries), key=lambda line: (CAPACITY_ORDER.index(line[0]), line[1]))
    return "".join(f"{letter}{subject}\n" for letter, subject in ordered[:MOST])
