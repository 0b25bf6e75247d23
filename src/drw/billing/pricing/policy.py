"""Pricing policy: prices, budgets and limits, as published by rate limiting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from drw.api.gateway.v1.rate_limiting_pb2 import Block, Limit, Policy
from drw.billing.amounts import FREE, Price, from_usd
from drw.billing.counters.client import CountersUnavailable
from drw.billing.subjects import Subject


@dataclass(frozen=True, slots=True)
class CallPricing:
    """Budgets and limits that apply to one call."""

    exact: bool
    """Whether the call has a price or a budget. If so, it must be reserved, or is denied."""
    limits: Sequence[tuple[Subject, Limit]]
    """Limits of tokens and requests per minute and of concurrent calls."""

    @property
    def unlimited(self) -> bool:
        """Whether no price, budget or limit applies."""
        return not self.exact and not self.limits


class PricingPolicy:
    """One version of prices, budgets and limits."""

    def __init__(self, policy: Policy) -> None:
        self._prices: dict[tuple[str, str], list[tuple[datetime, Price]]] = {}
        for entry in policy.prices:
            price = Price(
                from_usd(entry.prompt_usd_per_million, "prompt_usd_per_million"),
                from_usd(entry.completion_usd_per_million, "completion_usd_per_million"),
            )
            since = entry.effective_from.ToDatetime(UTC)
            self._prices.setdefault((entry.model, entry.version), []).append((since, price))
        for prices in self._prices.values():
            prices.sort(key=lambda pair: pair[0])
        self._budgets = {Subject(b.subject, b.org, b.name) for b in policy.budgets}
        self._limits = {subject_of(limit): limit for limit in policy.limits if _is_counted_here(limit)}

    def price(self, model: str, version: str, at: datetime, default: Price = FREE) -> Price:
        """Return the price of a model at a time; the price of its version takes precedence.

        `default` is the price of a model for which none is set.
        """
        for name in ((model, version), (model, "")):
            effective = [price for since, price in self._prices.get(name, ()) if since <= at]
            if effective:
                return effective[-1]
        return default

    def for_call(self, subjects: Sequence[Subject], prices: Sequence[Price]) -> CallPricing:
        """Return the budgets and limits that apply to a call of these subjects."""
        exact = any(price != FREE for price in prices) or not self._budgets.isdisjoint(subjects)
        return CallPricing(exact, [(subject, self._limits[subject]) for subject in subjects if subject in self._limits])


class CurrentPricing:
    """The newest policy that rate limiting published."""

    def __init__(self) -> None:
        self._current: PricingPolicy | None = None

    @classmethod
    def fixed(cls, policy: Policy) -> CurrentPricing:
        """Return a constant policy."""
        pricing = cls()
        pricing.apply(policy)
        return pricing

    def current(self) -> PricingPolicy:
        """Return the newest policy.

        Raises:
            CountersUnavailable: no policy has been received, so prices are unknown.
        """
        if self._current is None:
            raise CountersUnavailable(
                "rate limiting has not published its budgets and prices yet; try again",
                part="rate_limiting",
                retry_after="2",
            )
        return self._current

    def apply(self, policy: Policy) -> None:
        """Apply a newer policy."""
        self._current = PricingPolicy(policy)


def subject_of(limit: Limit) -> Subject:
    """Return the subject of a limit."""
    name = {Block.DESK: limit.desk, Block.ORG: "", Block.MODEL: limit.model}.get(limit.subject, limit.key)
    kind = limit.subject or Block.KEY
    return Subject(kind, "" if kind == Block.MODEL else limit.org, name)


def _is_counted_here(limit: Limit) -> bool:
    """Return whether a limit is enforced here. The data plane enforces requests per minute, except those of models."""
    requests = limit.requests_per_minute if limit.subject == Block.MODEL else 0
    return bool(requests or limit.tokens_per_minute or limit.concurrent)
