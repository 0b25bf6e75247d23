"""Limits of requests in Envoy's local buckets, and the headers that say what is left of them.

A bucket refills all the time. A fixed limit of N holds N: all may come at once, and no 60 seconds have more than 2N.
A sliding one holds a tenth of N and refills the rest: no 60 seconds, wherever they begin, have more than N.
"""

from __future__ import annotations

from collections.abc import Iterable

from drw.agent.shapes import Json, header, typed
from drw.api.gateway.v1.rate_limiting_pb2 import Block, Limit, Limits

UNBOUNDED = 1_000_000_000
"""What the filter needs for a request that no limit binds; there is none, since each key has the default limit."""
MANY_KEYS = 10_000
BURST_SHARE = 10
ALWAYS = {"default_value": {"numerator": 100}}
LIMIT = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
KEY, DESK, ORG = "key", "desk", "org"


def limits(wanted: Limits) -> Json:
    """Return the filter that bounds the requests a minute of each key, desk and org; the tightest counts.

    Each data plane lets its share through.
    """
    planes = wanted.data_planes or 1
    bound = [limit for limit in wanted.limits if limit.requests_per_minute]
    own = sorted((_descriptor(limit, planes) for limit in bound if limit.subject != Block.MODEL), key=_values)
    rest = {"entries": [{"key": KEY}], "token_bucket": _bucket(_share(wanted.default_requests_per_minute, planes))}
    return typed(
        LIMIT,
        stat_prefix="keys",
        token_bucket={"max_tokens": UNBOUNDED, "tokens_per_fill": UNBOUNDED, "fill_interval": "1s"},
        filter_enabled=ALWAYS,
        filter_enforced=ALWAYS,
        rate_limits=[_told(KEY), *([_told(ORG, DESK)] if _has(bound, Block.DESK) else []),
                     *([_told(ORG)] if _has(bound, Block.ORG) else [])],
        descriptors=[*own, rest],
        max_dynamic_descriptors=MANY_KEYS,
        always_consume_default_token_bucket=False,
        enable_x_ratelimit_headers="DRAFT_VERSION_03",
        enable_retry_after_header=True,
    )  # fmt: skip


def headers() -> list[Json]:
    """Return the mutations that say the filter's x-ratelimit-* in OpenAI's names and in the RateLimit fields.

    Fields: draft-ietf-httpapi-ratelimit-headers; the tokens in them are model serving's. A refusal that comes before
    the limits has nothing to say: what it does not have is left out, and so is the text around it.
    """
    limit, left, resets = (_said(name) for name in ("limit", "remaining", "reset"))
    one = [
        ("x-ratelimit-limit-requests", limit),
        ("x-ratelimit-remaining-requests", left),
        ("x-ratelimit-reset-requests", resets + _text("s")),
    ]
    more = [
        ("ratelimit-policy", _text('"requests";q=') + limit + _text(";w=60")),
        ("ratelimit", _text('"requests";r=') + left + _text(";t=") + resets),
    ]
    return [
        *({"append": header(name, value)} for name, value in one),
        *({"append": header(name, value, "APPEND_IF_EXISTS_OR_ADD")} for name, value in more),
    ]


def _descriptor(limit: Limit, planes: int) -> Json:
    subject = limit.subject or Block.KEY
    values = {
        Block.KEY: [(KEY, limit.key)],
        Block.DESK: [(ORG, limit.org), (DESK, limit.desk)],
        Block.ORG: [(ORG, limit.org)],
    }[subject]
    share = _share(limit.requests_per_minute, planes)
    bucket = _sliding(share) if limit.algorithm == Limit.SLIDING else _bucket(share)
    return {"entries": [{"key": name, "value": value} for name, value in values], "token_bucket": bucket}


def _values(descriptor: Json) -> list[str]:
    return [entry["value"] for entry in descriptor["entries"]]


def _told(*names: str) -> Json:
    return {"actions": [{"request_headers": {"header_name": f"x-drw-{n}", "descriptor_key": n}} for n in names]}


def _has(bound: Iterable[Limit], subject: Block.Subject) -> bool:
    return any(limit.subject == subject for limit in bound)


def _share(per_minute: int, planes: int) -> int:
    return per_minute // planes or 1


def _bucket(per_minute: int) -> Json:
    return {"max_tokens": per_minute, "tokens_per_fill": per_minute, "fill_interval": "60s"}


def _sliding(per_minute: int) -> Json:
    burst = max(1, per_minute // BURST_SHARE)
    return {"max_tokens": burst, "tokens_per_fill": max(1, per_minute - burst), "fill_interval": "60s"}


def _said(name: str) -> str:
    return f"%RESP(x-ratelimit-{name})%"


def _text(text: str) -> str:
    """Return a text that stands only where a limit bound the request."""
    return f"%CEL('x-ratelimit-limit' in response.headers ? '{text}' : '')%"
