"""Permits in the serving path: checked at each call, also against cached answers of discovery."""

from __future__ import annotations

from collections.abc import Mapping

from drw.api.models.v1.discovery_pb2 import Permit, ResolveModelRequest
from drw.api.models.v1.discovery_rpc import DiscoveryClient
from drw.kernel.errors import DeadlineExceeded, Forbidden, NotFound, Unavailable
from drw.kernel.rpc.context import caller_or_none
from drw.routing import permits
from drw.routing.permits import ModelNotValidated

RESOLVE_TIMEOUT_SECONDS = 5.0

CallerKey = tuple[str, frozenset[str], str]
"""Org and walls of the caller, and the name of a model: what an answer of discovery depends on."""


def caller_key(name: str) -> CallerKey:
    """Return the key of a cached answer of discovery about a name."""
    caller = caller_or_none()
    return (caller.org, caller.walls, name) if caller else ("", frozenset(), name)


def check_any_permitted(models: Mapping[str, Permit]) -> set[str]:
    """Return the models to which no traffic may go now.

    Raises:
        ModelNotValidated: traffic may go to none of them.
    """
    reasons = {model: reason for model, permit in models.items() if (reason := permits.refusal(permit))}
    if models and len(reasons) == len(models):
        raise ModelNotValidated(*next(iter(reasons.items())))
    return set(reasons)


async def still_permitted(discovery: DiscoveryClient, models: Mapping[str, Permit]) -> bool:
    """Return whether traffic may still go to models that discovery no longer names, while their successors load."""
    for model in models:
        try:
            await discovery.resolve_model(ResolveModelRequest(id=model), timeout=RESOLVE_TIMEOUT_SECONDS)
        except (Forbidden, NotFound):
            return False
        except (Unavailable, DeadlineExceeded):
            continue  # their permits end soon
    return True
