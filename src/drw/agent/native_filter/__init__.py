"""The native HTTP filter: a dynamic module inside Envoy.

It rejects requests of blocked subjects, over a request limit, without a required scope, or with a body that is too
large. It cuts streams of killed subjects, and strips headers at the boundary to third parties. `drw generate` compiles
filter.c and the files beside it for each platform. See decisions 8, 9 and 12 in docs/decisions.
"""

from __future__ import annotations

import functools
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from drw.agent.native_filter.siphash import siphash
from drw.agent.xds.builders import Json, typed
from drw.agent.xds.http_filters import request_limits
from drw.api.gateway.v1.rate_limiting_pb2 import Block
from drw.api.gateway.v1.request_router_pb2 import Configuration

NATIVE_FILTER = "drw.native_filter"
BOUNDARY = "drw.boundary"
MODULE = "envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter"
CALLER_METADATA = "drw.caller"
"""Metadata namespace of the caller and the request, for the access log."""

REVOKED, KILLED, MONEY, TOKENS = "r", "k", "m", "t"
REASON_LETTERS = {Block.KILLED: KILLED, Block.MONEY: MONEY, Block.TOKENS: TOKENS}
CAPACITY_ORDER = (KILLED, REVOKED, MONEY, TOKENS)
"""Killed subjects come first, because capacity is limited and no other filter cuts streams."""

REJECTED_PREFIX, CUT, LACKS_SCOPE = "drw_refused_", "drw_cut", "drw_lacks_scope"
"""Response code details of the filter, which local replies match on. The reason follows the prefix."""

MAX_ENTRIES = 1 << 17
"""Capacity of the module in entries. The deny list filter rejects the rest."""

PUBLIC, ANY_KEY, ANY_SCOPE = "a", "k", "s"
"""Access levels of a route: everyone, any API key, or a key with at least one of the scopes."""

ZERO_SEED = bytes(16)
"""For tests and dry runs, which need no secret seed."""


def filter_config(configuration: Configuration, seed: bytes = ZERO_SEED) -> Json:
    """Return the filter with limits and deny list; the seed of their hashes has 16 bytes.

    A configuration of any length takes effect within milliseconds, unlike those of Envoy's own filters, which
    `drw.agent.xds.http_filters.deny_list` configures with the same deny list. Only streams of killed subjects are cut.
    """
    hashed = functools.partial(_hash, seed)
    entries = [
        (REASON_LETTERS.get(block.reason, KILLED), hashed(_hash_input(block, hashed))) for block in configuration.blocks
    ]
    entries += [(REVOKED, hashed(f"revoked\n\n{key}")) for key in configuration.credentials.revoked]
    limits = request_limits.limit_lines(configuration.limits, hashed)
    text = request_limits.header_line(configuration.limits, seed, len(limits)) + "".join(limits) + _deny_list(entries)
    return _filter(NATIVE_FILTER, text)


def boundary_config(request: Sequence[str], response: Sequence[str]) -> Json:
    """Return the filter that strips headers; a name ending in '-' is a prefix."""
    return _filter(BOUNDARY, f"{' '.join(request)}\n{' '.join(response)}")


def route_config(access: str, max_bytes: int, scopes: Iterable[str] = ()) -> Json:
    """Return the per-route configuration: PUBLIC, ANY_KEY or ANY_SCOPE, and the maximum body size in bytes."""
    text = f"{access}{max_bytes:016x}" + "".join(f"\n{scope}" for scope in scopes)
    return typed(
        f"{MODULE}PerRoute",
        dynamic_module_config=_module(),
        per_route_config_name=NATIVE_FILTER,
        filter_config=_string(text),
    )


def _filter(name: str, text: str) -> Json:
    return typed(MODULE, dynamic_module_config=_module(), filter_name=name, filter_config=_string(text))


def _module() -> Json:
    # The counts are in the library, so it stays loaded without a filter.
    return {"module": {"local": {"filename": str(library())}}, "do_not_close": True, "metrics_namespace": "drw"}


def _string(text: str) -> Json:
    return typed("google.protobuf.StringValue", value=text)


def library() -> Path:
    """Return the library for this platform. If it is missing, Envoy rejects the configuration."""
    system = {"linux": "linux", "darwin": "macos"}.get(sys.platform, sys.platform)
    machine = {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())
    return Path(__file__).with_name(f"native_filter.{machine}-{system}.so")


def _hash_input(block: Block, hashed: Callable[[str], str]) -> str:
    """Return the hash input of a subject, with the org of a model hashed, as in filter.c."""
    org = block.org
    if block.subject == Block.MODEL and block.org:
        org = hashed(request_limits.subject(Block.ORG, block.org, ""))
    return request_limits.subject(block.subject, org, block.name)


@functools.lru_cache(1 << 18)
def _hash(seed: bytes, subject: str) -> str:
    return f"{siphash(seed, subject.encode()) or 1:016x}"


def _deny_list(entries: Iterable[tuple[str, str]]) -> str:
    """Return one line per blocked subject, in the order of capacity, at most as many as the module holds."""
    ordered = sorted(set(entries), key=lambda entry: (CAPACITY_ORDER.index(entry[0]), entry[1]))
    return "".join(f"{letter}{subject}\n" for letter, subject in ordered[:MAX_ENTRIES])
