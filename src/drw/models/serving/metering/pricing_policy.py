"""What binds a call: prices, budgets and limits, as rate limiting last told, also while it does not answer."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from google.protobuf.message import DecodeError

from drw.api.gateway.v1.rate_limiting_pb2 import Block, Limit, Policy
from drw.billing.amounts import FREE, Price, from_usd
from drw.billing.counters.client import CountersUnavailable
from drw.billing.subjects import Subject
from drw.kernel.errors import DeadlineExceeded

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PricingTerms:
    """What binds one call."""

    exact: bool
    """Whether it costs money, or a budget binds it: then it must be reserved, or refused."""
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
        for found in policy.prices:
            price = Price(
                from_usd(found.prompt_usd_per_million, "prompt_usd_per_million"),
                from_usd(found.completion_usd_per_million, "completion_usd_per_million"),
            )
            since = found.effective_from.ToDatetime(UTC)
            self._prices.setdefault((found.model, found.version), []).append((since, price))
        for prices in self._prices.values():
            prices.sort(key=lambda pair: pair[0])
        self._budgets = {Subject(b.subject, b.org, b.name) for b in policy.budgets}
        self._limits = {subject_of(limit): limit for limit in policy.limits if _counted(limit)}

    def price(self, model: str, version: str, at: datetime) -> Price:
        """Return what a model costs at a moment; the price of its version goes before that of any."""
        for name in ((model, version), (model, "")):
            past = [price for since, price in self._prices.get(name, ()) if since <= at]
            if past:
                return past[-1]
        return FREE

    def terms(self, subjects: Sequence[Subject], prices: Sequence[Price]) -> PricingTerms:
        """Return what binds a call of these subjects."""
        exact = any(price != FREE for price in prices) or not self._budgets.isdisjoint(subjects)
        return PricingTerms(
            exact, [(subject, self._limits[subject]) for subject in subjects if subject in self._limits]
        )


class PricingWatch:
    """The newest tariff; kept in a file too, so that a process that starts knows it without rate limiting."""

    def __init__(self, watch: Callable[[], AsyncIterator[Policy]], file: Path) -> None:
        self._watch = watch
        self._file = file
        self._newest: PricingPolicy | None = None

    @classmethod
    def fixed(cls, policy: Policy) -> PricingWatch:
        """Return one that never changes."""
        found = cls(_nothing, Path())
        found._newest = PricingPolicy(policy)
        return found

    def newest(self) -> PricingPolicy:
        """Return it.

        Raises:
            CountersAway: none has ever come, so that it is not known what is free.
        """
        if self._newest is None:
            raise CountersUnavailable(
                "rate limiting has not yet said which budgets and prices there are; try again",
                part="rate_limiting",
                retry_after="2",
            )
        return self._newest

    def read(self) -> None:
        """Take the one that was kept, where there is one."""
        with suppress(FileNotFoundError):
            try:
                self._newest = PricingPolicy(Policy.FromString(self._file.read_bytes()))
            except DecodeError:
                log.warning("the kept prices and budgets cannot be read; waiting for rate limiting")

    async def follow(self) -> None:
        """Take each new one as it comes, for ever."""
        while True:
            with suppress(DeadlineExceeded):  # no stream lasts for ever
                async with aclosing(self._watch()) as news:  # type: ignore[type-var]
                    async for policy in news:
                        self._newest = PricingPolicy(policy)
                        self._keep(policy)

    def _keep(self, policy: Policy) -> None:
        new = self._file.with_suffix(".new")
        new.write_bytes(policy.SerializeToString())
        new.replace(self._file)


async def _nothing() -> AsyncIterator[Policy]:
    return
    yield


def subject_of(limit: Limit) -> Subject:
    """Return whom a limit binds."""
    name = {Block.DESK: limit.desk, Block.ORG: "", Block.MODEL: limit.model}.get(limit.subject, limit.key)
    kind = limit.subject or Block.KEY
    return Subject(kind, "" if kind == Block.MODEL else limit.org, name)


def _counted(limit: Limit) -> bool:
    """Tell whether a limit is counted here: the data plane counts the requests of all but models."""
    requests = limit.requests_per_minute if limit.subject == Block.MODEL else 0
    return bool(requests or limit.tokens_per_minute or limit.concurrent)
