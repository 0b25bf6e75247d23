"""Prices of registered versions."""

from __future__ import annotations

from drw.api.models.v1.discovery_pb2 import ResolvedModel
from drw.billing.amounts import FREE, Price, from_usd


def default_price(resolved: ResolvedModel) -> Price:
    """Return the price that a version was registered with; free if it has none."""
    if not resolved.HasField("price"):
        return FREE
    prompt, completion = resolved.price.prompt_usd_per_million, resolved.price.completion_usd_per_million
    return Price(from_usd(prompt or "0", "price"), from_usd(completion or "0", "price"))
