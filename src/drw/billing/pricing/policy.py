"""Prices, budgets and limits that bind a call, as rate limiting publishes them."""

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
    """What binds one call."""

    exact: bool
    """Whether it costs money or a budget binds it. Then it is reserved, or refused."""
    limits: Sequence[tuple[Subject, Limit]]
    """Of tokens and requests a minute and of calls at once."""

    @property
    def free(self) -> bool:
        """Whether nothing binds it at all."""
        return not self.exact and not self.limits


class PricingPolicy:
    """One state of prices, budgets and limits."""

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
        self._limits = {subject_of(limit): limit for limit in policy.limits if _counted(limit)}

    def price(self, model: str, version: str, at: datetime) -> Price:
        """Return the price of a model at a time; the price of its version takes precedence."""
        for name in ((model, version), (model, "")):
            past = [price for since, price in self._prices.get(name, ()) if since <= at]
            if past:
                return past[-1]
        return FREE

    def for_call(self, subjects: Sequence[Subject], prices: Sequence[Price]) -> CallPricing:
        """Return what binds a call of these subjects."""
        exact = any(price != FREE for price in prices) or not self._budgets.isdisjoint(subjects)
        return CallPricing(exact, [(subject, self._limits[subject]) for subject in subjects if subject in self._limits])


class CurrentPricing:
    """The newest policy that rate limiting published."""

    def __init__(self) -> None:
        self._newest: PricingPolicy | None = None

    @classmethod
    def fixed(cls, policy: Policy) -> CurrentPricing:
        """Return one that never changes."""
        pricing = cls()
        pricing.apply(policy)
        return pricing

    def newest(self) -> PricingPolicy:
        """Return the newest policy.

        Raises:
            CountersUnavailable: none has ever come, so that it is not known what is free.
        """
        if self._newest is None:
            raise CountersUnavailable(
                "rate limiting has not published its budgets and prices yet; try again",
                part="rate_limiting",
                retry_after="2",
            )
        return self._newest

    def apply(self, policy: Policy) -> None:
        """Put a newer policy in force."""
        self._newest = PricingPolicy(policy)


def subject_of(limit: Limit) -> Subject:
    """Return the subject of a limit."""
    name = {Block.DESK: limit.desk, Block.ORG: "", Block.MODEL: limit.model}.get(limit.subject, limit.key)
    kind = limit.subject or Block.KEY
    return Subject(kind, "" if kind == Block.MODEL else limit.org, name)


def _counted(limit: Limit) -> bool:
    """Tell whether a limit is counted here. The data plane counts requests, except those of a model."""
    requests = limit.requests_per_minute if limit.subject == Block.MODEL else 0
    return bool(requests or limit.tokens_per_minute or limit.concurrent)
