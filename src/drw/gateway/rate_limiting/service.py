"""Rate limiting: limits, budgets, prices, spending and usage reports."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

from drw.api.gateway.v1 import rate_limiting_rpc as contract
from drw.api.gateway.v1.rate_limiting_pb2 import (
    AnnounceKeysRequest,
    AnnounceKeysResponse,
    BindKeyRequest,
    Block,
    Budget,
    GetSpendRequest,
    GetSpendResponse,
    KeyOwner,
    Limit,
    Limits,
    ListBudgetsRequest,
    ListBudgetsResponse,
    ListLimitsRequest,
    ListPricesRequest,
    ListPricesResponse,
    Policy,
    Price,
    RemoveLimitRequest,
    ReportEnforcementRequest,
    ReportEnforcementResponse,
    ReportUsageRequest,
    ReportUsageResponse,
    UnbindKeyRequest,
    UnbindKeyResponse,
    WatchLimitsRequest,
    WatchPolicyRequest,
)
from drw.billing.counters.client import Counters, CountersUnavailable
from drw.billing.counters.rebuild import CounterRebuild
from drw.billing.ledger import sums
from drw.billing.ledger.ledger import Ledger
from drw.billing.reservations.reaper import post, reap
from drw.billing.subjects import Subject
from drw.events.publisher import create_tables
from drw.gateway.rate_limiting import key_directory, spend, store, validation
from drw.gateway.rate_limiting.enforcement_reports import EnforcementReports
from drw.gateway.rate_limiting.exhausted_subjects import ExhaustedSubjects
from drw.gateway.rate_limiting.limit_inheritance import bind, unbind
from drw.gateway.rate_limiting.metrics import measure
from drw.gateway.rate_limiting.permission import desk_to_change, is_removable
from drw.gateway.rate_limiting.settings import Settings
from drw.gateway.rate_limiting.store import (
    CHANNEL,
    LimitStore,
    as_budget,
    as_limit,
    as_price,
    fetch_one,
    record_change,
    subject_columns,
    subject_of,
)
from drw.gateway.rate_limiting.usage import UsageReports
from drw.kernel import tenancy
from drw.kernel.errors import NotFound, Unavailable
from drw.kernel.runtime.host import ServiceContext
from drw.kernel.storage.audit import AuditWriter
from drw.kernel.storage.database import Connection

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0


class RateLimiting(contract.RateLimiting):
    """Serves `drw.api.gateway.v1.RateLimiting`."""

    def __init__(
        self,
        settings: Settings,
        store: LimitStore,
        audit: AuditWriter,
        counters: Counters,
        ledger: Ledger,
        reports: UsageReports,
        exhausted: ExhaustedSubjects,
    ) -> None:
        self._settings = settings
        self._store = store
        self._audit = audit
        self._counters = counters
        self._ledger = ledger
        self._reports = reports
        self._exhausted = exhausted
        self.enforcement_reports = EnforcementReports(store)
        self._rebuild = CounterRebuild(
            counters, store.database, self.push_caps, store.newest_change, settings.lease_seconds
        )

    async def set_limit(self, request: Limit, /) -> Limit:
        """SetLimit replaces the limits of a key, desk, org or model."""
        subject = validation.subject_of_limit(request)
        validation.check_limit(request)
        row = subject_columns(subject) | {
            "requests_per_minute": request.requests_per_minute,
            "tokens_per_minute": request.tokens_per_minute,
            "concurrent": request.concurrent,
            "algorithm": Limit.Algorithm.Name(request.algorithm or Limit.FIXED),
            "when_lost": Limit.WhenLost.Name(request.when_lost or Limit.LOCAL_SHARE),
            "expires_at": request.expires_at.ToDatetime(UTC) if request.HasField("expires_at") else None,
        }
        async with self._store.database.transaction() as connection:
            desk = await desk_to_change(connection, subject, request.desk)
            before = await fetch_one(connection, SELECT_LIMIT, *subject_columns(subject).values())
            await connection.execute(store.PUT_LIMIT, row | {"desk": desk})
            after = await fetch_one(connection, SELECT_LIMIT, *subject_columns(subject).values())
            assert after is not None
            await self._record_change(connection, "limit.set", subject, _limit_details(before), _limit_details(after))
        await self._apply_caps(subject)
        return await self._wait_until_enforced(as_limit(after))

    async def remove_limit(self, request: RemoveLimitRequest, /) -> Limit:
        """RemoveLimit removes the limits of a key, desk, org or model."""
        subject = validation.subject(request.subject, request.org, request.name)
        query = "delete from subject_limit where kind = %s and org = %s and name = %s"
        async with self._store.database.transaction() as connection:
            before = await fetch_one(connection, f"{SELECT_LIMIT} for update", *subject_columns(subject).values())
            if not await is_removable(connection, subject, before) or before is None:
                raise NotFound(f"{subject} has no limit")
            await connection.execute(query, tuple(subject_columns(subject).values()))
            await self._record_change(connection, "limit.remove", subject, _limit_details(before), None)
        await self._apply_caps(subject)
        return await self._wait_until_enforced(as_limit(before))

    async def list_limits(self, request: ListLimitsRequest, /) -> Limits:
        """ListLimits lists the limits of the caller's desk, or of its org with "org:admin", and the default."""
        orgs = ("", tenancy.requested_org(request.org))
        limits = await self._store.limits()
        blocks = await self._store.blocks_with_desks(self._now())
        return self._limits_message(
            [limit for limit in limits if limit.org in orgs and validation.may_see(subject_of(limit), limit.desk)],
            [block for block, desk in blocks if block.org in orgs and validation.may_see(subject_of(block), desk)],
        )

    async def watch_limits(self, request: WatchLimitsRequest, /) -> AsyncIterator[Limits]:
        """WatchLimits streams all limits, now and after each change."""
        async with aclosing(self._store.database.notifications(CHANNEL)) as changes:
            async for _ in changes:
                change = await self._store.newest_change()  # before the limits, which can be newer than the change
                limits = self._limits_message(await self._store.limits(), await self._store.blocks(self._now()))
                limits.change = change
                yield limits

    async def report_enforcement(self, request: ReportEnforcementRequest, /) -> ReportEnforcementResponse:
        """ReportEnforcement records which change of the limits each data plane enforces."""
        await self.enforcement_reports.record(request)
        return ReportEnforcementResponse()

    async def announce_keys(self, request: AnnounceKeysRequest, /) -> AnnounceKeysResponse:
        """AnnounceKeys records the org and desk of each key."""
        async with self._store.database.transaction() as connection:
            await key_directory.announce(connection, request.owners, external=request.external)
            limits, budgets = await key_directory.correct_limits(connection, [owner.key for owner in request.owners])
            lines = [self._audit_line("limit.remove", _key_subject(row), _limit_details(row), None) for row in limits]
            lines += [
                self._audit_line("budget.remove", _key_subject(row), _budget_details(row), None) for row in budgets
            ]
            if lines:
                await self._audit.write(lines, connection)  # in one statement, since there can be thousands
                await record_change(connection)
        if lines:
            log.warning("deleted limits that other orgs had set on keys: %d limits, %d budgets",
                        len(limits), len(budgets))  # fmt: skip
            await self._apply_caps(*map(_key_subject, (*limits, *budgets)))
        return AnnounceKeysResponse()

    async def bind_key(self, request: BindKeyRequest, /) -> Limit:
        """BindKey announces a key and sets its limits and budgets before it becomes valid."""
        subject = Subject(Block.KEY, request.org, request.key)
        default = self._settings.default_requests_per_minute
        owner = KeyOwner(key=request.key, org=request.org, desk=request.desk, expires_at=request.expires_at)
        async with self._store.database.transaction() as connection:
            await key_directory.announce(connection, [owner])
            changed = await bind(connection, self._counters, request, default, self._now())
            for row in changed.limits:
                await self._record_change(connection, "limit.set", subject, None, _limit_details(row))
            for row in changed.budgets:
                await self._record_change(connection, "budget.set", subject, None, _budget_details(row))
            limit = await fetch_one(connection, SELECT_LIMIT, *subject_columns(subject).values())
        if changed.limits or changed.budgets:
            await self._apply_caps(subject)
        if changed.limits and (pending := await self.enforcement_reports.wait_until_enforced()):
            planes = f"the data plane{'s' * (len(pending) > 1)} {', '.join(map(repr, pending))}"
            raise Unavailable(
                f"the limits of the new key are not enforced yet by {planes}; there is no new key: try again"
            )
        return as_limit(limit) if limit else Limit(key=request.key, org=request.org)

    async def unbind_key(self, request: UnbindKeyRequest, /) -> UnbindKeyResponse:
        """UnbindKey undoes BindKey for a key that was not created."""
        subject = Subject(Block.KEY, request.org, request.key)
        async with self._store.database.transaction() as connection:
            changed = await unbind(connection, subject)
            await key_directory.delete_owner(connection, subject)
            for row in changed.limits:
                await self._record_change(connection, "limit.remove", subject, _limit_details(row), None)
            for row in changed.budgets:
                await self._record_change(connection, "budget.remove", subject, _budget_details(row), None)
        if changed.limits or changed.budgets:
            await self._apply_caps(subject)
        return UnbindKeyResponse()

    async def set_budget(self, request: Budget, /) -> Budget:
        """SetBudget sets the budget of a key, desk, org or model for a period."""
        subject = validation.subject(request.subject, request.org, request.name)
        row = _budget_key(subject, request) | {"amount": validation.check_budget(request)}
        async with self._store.database.transaction() as connection:
            desk = await desk_to_change(connection, subject)
            before = await fetch_one(connection, SELECT_BUDGET, *_budget_key(subject, request).values())
            await connection.execute(store.PUT_BUDGET, row | {"desk": desk})
            await self._record_change(connection, "budget.set", subject, _budget_details(before), _budget_details(row))
        if before is None and request.unit == Budget.TOKENS:
            await self._load_tokens(subject)
        await self._apply_caps(subject)
        return (await spend.with_spending([as_budget(row)], self._counters))[0]

    async def remove_budget(self, request: Budget, /) -> Budget:
        """RemoveBudget removes a budget."""
        subject = validation.subject(request.subject, request.org, request.name)
        query = "delete from budget where kind = %s and org = %s and name = %s and period = %s and unit = %s"
        row = tuple(_budget_key(subject, request).values())
        async with self._store.database.transaction() as connection:
            before = await fetch_one(connection, f"{SELECT_BUDGET} for update", *row)
            if not await is_removable(connection, subject, before) or before is None:
                raise NotFound(f"{subject} has no such budget; `drw budgets list` shows the existing ones")
            await connection.execute(query, row)
            await self._record_change(connection, "budget.remove", subject, _budget_details(before), None)
        await self._apply_caps(subject)
        return as_budget(before)

    async def list_budgets(self, request: ListBudgetsRequest, /) -> ListBudgetsResponse:
        """ListBudgets lists the budgets that the caller can see, with the amounts spent and left."""
        return ListBudgetsResponse(budgets=await spend.visible_budgets(self._store, self._counters, request.org))

    async def set_price(self, request: Price, /) -> Price:
        """SetPrice sets the price of a model from a given time."""
        tenancy.check_change(tenancy.PLATFORM)
        since, prompt, completion = validation.check_price(request, datetime.now(UTC))
        async with self._store.database.transaction() as connection:
            before = await fetch_one(connection, SELECT_PRICE, request.model, request.version, since)
            await connection.execute(store.PUT_PRICE, (request.model, request.version, since, prompt, completion))
            after = {"effective_from": since, "prompt": prompt, "completion": completion}
            details = {"before": _price_details(before), "after": _price_details(after), "version": request.version}
            await self._audit.record("price.set", f"model/{request.model}", details=details, connection=connection)
            await connection.execute(store.NOTIFY.encode())
        return as_price({"model": request.model, "version": request.version, **after})

    async def list_prices(self, request: ListPricesRequest, /) -> ListPricesResponse:
        """ListPrices lists all prices: past, current and future."""
        return ListPricesResponse(prices=await self._store.prices())

    async def get_spend(self, request: GetSpendRequest, /) -> GetSpendResponse:
        """GetSpend returns the spending of an org from the ledger."""
        return await spend.spend(self._store, request)

    async def watch_policy(self, request: WatchPolicyRequest, /) -> AsyncIterator[Policy]:
        """WatchPolicy streams the prices, limits and budgets that model serving applies, now and after each change."""
        previous = None
        async with aclosing(self._store.database.notifications(CHANNEL)) as changes:
            async for _ in changes:
                policy = Policy(
                    prices=await self._store.prices(),
                    limits=await self._store.limits(),
                    budgets=[budget for budget, _ in await self._store.budgets()],
                )
                if policy != previous:
                    previous = policy
                    yield policy

    async def report_usage(self, request: ReportUsageRequest, /) -> ReportUsageResponse:
        """ReportUsage records the usage of pass-through requests."""
        await self._reports.record(request)
        return ReportUsageResponse()

    async def check_counters(self) -> None:
        """Close the counters if they do not match the ledger."""
        with suppress(CountersUnavailable):
            await self._rebuild.check()

    async def push_caps(self) -> None:
        """Write the current caps to the counters."""
        version, caps = await self._store.caps()
        if not await self._counters.set_caps(version, caps):
            await self._rebuild.check()  # the counters have newer caps: of another process, or of a lost database

    async def follow(self) -> None:
        """Write the caps to the counters after each change by any process."""
        async with aclosing(self._store.database.notifications(CHANNEL)) as changes:
            async for _ in changes:
                with suppress(CountersUnavailable):
                    await self.push_caps()

    async def tick(self) -> None:
        """Run periodic work: rebuild counters, settle reservations of dead processes, post uncounted rows, renew
        blocks.
        """
        with suppress(CountersUnavailable):
            if await self._rebuild.tick():
                await reap(self._counters, self._ledger)
                await post(self._counters, self._ledger)
        await self._exhausted.renew()

    async def run_ticks(self) -> None:
        """Run `tick` periodically."""
        while True:
            await self.tick()
            await asyncio.sleep(TICK_SECONDS)

    async def detail(self) -> str:
        """Return the number of limits, and whether money can be spent.

        Raises:
            Unavailable: the counters are unavailable or being rebuilt.
        """
        row = await self._store.database.one(COUNTS)
        assert row is not None
        text = (
            f"{row['limits']} custom limits, {row['budgets']} budgets, {row['prices']} prices, "
            f"{row['blocks']} blocked; {self._settings.default_requests_per_minute} requests a minute"
        )
        if not await self._counters.is_open():
            raise Unavailable(f"{text}; money cannot be spent until the counters are rebuilt", part="valkey")
        return text

    async def _record_change(
        self, connection: Connection, action: str, subject: Subject, before: Any, after: Any
    ) -> None:
        if before == after:
            return
        await self._audit.write([self._audit_line(action, subject, before, after)], connection)
        await record_change(connection)

    def _audit_line(self, action: str, subject: Subject, before: Any, after: Any) -> str:
        resource = str(subject).replace(" ", "/", 1).replace("'", "")
        return self._audit.line(action, resource, "ok", {"org": subject.org, "before": before, "after": after})

    async def _wait_until_enforced(self, limit: Limit) -> Limit:
        """Wait until data planes enforce a limit, and return it with the data planes that do not yet."""
        limit.pending.extend(await self.enforcement_reports.wait_until_enforced())
        return limit

    async def _apply_caps(self, *subjects: Subject) -> None:
        """Write the caps to the counters; if they are unavailable, `follow` and a rebuild do it later."""
        with suppress(CountersUnavailable):
            await self.push_caps()
        await self._exhausted.renew(subjects)

    async def _load_tokens(self, subject: Subject) -> None:
        """Load the used tokens of the ledger into the counters, which do not count all tokens without a budget."""
        async with self._store.database.transaction() as connection:
            spent = (await sums.spending(connection, [subject], self._now()))[subject]
        with suppress(CountersUnavailable):
            await self._counters.set_tokens(subject, spent["dt"], spent["mt"], spent["tt"])

    def _limits_message(self, limits: list[Limit], blocks: list[Block]) -> Limits:
        return Limits(
            default_requests_per_minute=self._settings.default_requests_per_minute,
            limits=limits,
            blocks=blocks,
            data_planes=self._settings.data_planes,
        )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._counters.now_ms() / 1000, UTC)


SELECT_LIMIT = "select * from subject_limit where kind = %s and org = %s and name = %s"
SELECT_BUDGET = "select * from budget where kind = %s and org = %s and name = %s and period = %s and unit = %s"
SELECT_PRICE = """
select * from price where model = %s and version = %s and effective_from <= %s order by effective_from desc limit 1
"""
COUNTS = """
select (select count(*) from subject_limit where expires_at is null or expires_at > now()) as limits,
       (select count(*) from budget) as budgets, (select count(*) from price) as prices,
       (select count(*) from block where until is null or until > now()) as blocks
"""


def _budget_key(subject: Subject, budget: Budget) -> dict[str, Any]:
    unit = Budget.Unit.Name(budget.unit or Budget.USD)
    return subject_columns(subject) | {"period": Budget.Period.Name(budget.period), "unit": unit}


def _key_subject(row: dict[str, Any]) -> Subject:
    return Subject(Block.KEY, row["org"], row["name"])


def _limit_details(row: dict[str, Any] | None) -> dict[str, Any] | None:
    names = ("desk", "requests_per_minute", "tokens_per_minute", "concurrent", "algorithm", "when_lost")
    return row and {name: row[name] for name in names}


def _budget_details(row: dict[str, Any] | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {"period": row["period"], "unit": row["unit"], "amount": as_budget(row).amount}


def _price_details(row: dict[str, Any] | None) -> dict[str, Any] | None:
    if row is None:
        return None
    shown = as_price({"model": "", "version": "", **row})
    return {
        "effective_from": shown.effective_from.ToJsonString(),
        "prompt_usd_per_million": shown.prompt_usd_per_million,
        "completion_usd_per_million": shown.completion_usd_per_million,
    }


async def build(scope: ServiceContext) -> RateLimiting:
    """Build the service from the configuration."""
    settings = scope.settings(Settings)
    metering = await scope.shared_database("metering", "drw.billing", pool_size=2)
    counters = Counters(scope.profile.valkey, seconds=settings.answer_seconds)
    scope.on_stop(counters.close)
    database = await scope.database(pool_size=8)
    await create_tables(database)
    store = LimitStore(database)
    ledger = Ledger(metering)
    exhausted = ExhaustedSubjects(store, counters)
    reports = UsageReports(store, ledger, counters, exhausted, scope.audit(), settings.uncounted_tokens)
    service = RateLimiting(settings, store, scope.audit(), counters, ledger, reports, exhausted)
    await service.check_counters()
    scope.background(service.follow)
    scope.background(service.run_ticks)
    scope.background(service.enforcement_reports.follow)
    scope.describe(service.detail)
    scope.on_scrape(partial(measure, store, counters))
    return service
