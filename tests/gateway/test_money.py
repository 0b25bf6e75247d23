"""Limits, budgets and prices as people set them, and the usage that data planes report."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import psycopg
import pytest
from prometheus_client import REGISTRY, generate_latest

from drw.api.gateway.v1.rate_limiting_pb2 import (
    Block,
    Budget,
    GetSpendRequest,
    Limit,
    ListBudgetsRequest,
    ListLimitsRequest,
    ListPricesRequest,
    Price,
    RemoveLimitRequest,
    ReportUsageRequest,
    Usage,
    WatchLimitsRequest,
    WatchPolicyRequest,
)
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.billing.counters.client import Counters
from drw.billing.ledger import sums
from drw.gateway.rate_limiting import exhausted_subjects, spend
from drw.gateway.rate_limiting.store import LimitStore
from drw.kernel.errors import Forbidden, InvalidRequest, NotFound
from drw.kernel.rpc.context import SCOPES, Principal, acting_for
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.database import Database
from support.hosting import hosted
from support.keys import announce
from support.money import counted_budgets

BOSS = Principal("acme", "research", "key_boss", frozenset(SCOPES))
TRACE = "0af7651916cd43dd8448eb211c80319c"
PASSED = {
    "gen_ai_operation_name": "pass_through",
    "gen_ai_provider_name": "up",
    "gen_ai_request_model": "vllm",
    "gen_ai_response_model": "vllm",
}
METERED = [
    ("gen_ai_client_token_usage_sum", PASSED | {"gen_ai_token_type": "input"}),
    ("gen_ai_client_token_usage_sum", PASSED | {"gen_ai_token_type": "output"}),
    ("drw_cost_usd_total", {"org": "acme", "desk": "research", "gen_ai_response_model": "vllm"}),
]
DESK: dict[str, Any] = {"subject": Block.DESK, "name": "research"}


def sample(name, labels) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def records(profile, action: str) -> list[dict]:
    with psycopg.connect(profile.postgres) as connection:
        rows = connection.execute("select record from audit.inbox order by id").fetchall()
    return [found for (row,) in rows if (found := orjson.loads(row))["action"] == action]


def usage(request_id: str, *, counted: bool = True, status: int = 200, upstream: str = "up", **fields) -> Usage:
    made = Usage(
        request_id=request_id,
        org="acme",
        desk="research",
        key="key_1",
        model="vllm",
        route="pass.vllm",
        upstream=upstream,
        prompt_tokens=100,
        completion_tokens=50,
        counted=counted,
        status=status,
        **fields,
    )
    made.at.FromDatetime(datetime.now(UTC))
    return made


@pytest.mark.parametrize("how", ["together", "strict", "apart"])
async def test_budgets_are_set_seen_and_taken_away_and_every_change_is_audited(profile: Profile, how: str) -> None:
    async with hosted(profile, ["rate_limiting"], how) as host:
        client = host.client(RateLimitingClient)
        with acting_for(BOSS):
            for amount in ("12.5", "20"):
                await client.set_budget(Budget(**DESK, period=Budget.DAY, amount=amount))
            await client.set_budget(Budget(subject=Block.ORG, period=Budget.TOTAL, unit=Budget.TOKENS, amount="1000"))
            found = (await client.list_budgets(ListBudgetsRequest())).budgets
            assert [(b.subject, b.name, b.unit, b.amount) for b in found] == [
                (Block.DESK, "research", Budget.USD, "20.00"),
                (Block.ORG, "", Budget.TOKENS, "1000"),
            ]
            assert found[0].HasField("resets_at") and not found[1].HasField("resets_at")
            gone = Budget(**DESK, period=Budget.DAY)
            await client.remove_budget(gone)
            with pytest.raises(NotFound, match="desk 'research' has no such budget"):
                await client.remove_budget(gone)
    details = [found["details"] for found in records(profile, "budget.set")]
    assert [(d["before"] and d["before"]["amount"], d["after"]["amount"]) for d in details] == [
        (None, "12.50"),
        ("12.50", "20.00"),
        (None, "1000"),
    ]
    (removed,) = records(profile, "budget.remove")
    assert (removed["resource"], removed["actor"], removed["details"]["after"]) == ("desk/research", "key_boss", None)


async def test_permission_to_change(profile: Profile, caller: Principal) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)

        async def budget(who, **fields) -> None:
            with acting_for(who):
                await client.set_budget(Budget(**{"period": Budget.DAY, "amount": "1", **fields}))

        await announce(client, "key_1")
        plain = replace(caller, scopes=frozenset({"limits:write"}))
        await budget(plain, **DESK)
        await budget(plain, subject=Block.KEY, name="key_1")
        cases: list[tuple[dict[str, Any], str]] = [
            ({"subject": Block.DESK, "name": "trading"}, "org:admin"),
            ({"subject": Block.ORG}, "org:admin"),
            ({"subject": Block.MODEL, "name": "gpt"}, "platform:admin"),
            ({**DESK, "org": "other"}, "not to 'other'"),
        ]
        for fields, said in cases:
            with pytest.raises(Forbidden, match=said):
                await budget(plain, **fields)
        with pytest.raises(NotFound, match="org:admin"):  # the key is of the desk research
            await budget(replace(plain, desk="trading"), subject=Block.KEY, name="key_1")
        with pytest.raises(Forbidden, match="limits:write"):
            await budget(replace(caller, scopes=frozenset({"keys:write"})), **DESK)
        with acting_for(plain), pytest.raises(Forbidden, match="platform:admin"):
            await client.set_price(Price(model="m", prompt_usd_per_million="1"))
        with acting_for(replace(caller, desk="trading")):
            assert (await client.list_budgets(ListBudgetsRequest())).budgets == []
        with acting_for(replace(BOSS, org="other")):
            assert (await client.list_budgets(ListBudgetsRequest())).budgets == []
            assert (await client.get_spend(GetSpendRequest())).lines == []


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"amount": "1e9"}, "amount is '1e9'"),
        ({"amount": "9000000.01"}, "it can be 0.00 to 9000000"),
        ({"amount": "-1"}, "write dollars as in '12.50'"),
        ({"amount": "0.0000000001"}, "at most 9 decimals"),
        ({"amount": "1.5", "unit": Budget.TOKENS}, "tokens are a whole number"),
        ({"amount": "1", "period": Budget.PERIOD_UNSPECIFIED}, "period is missing"),
        ({"amount": "1", "name": ""}, "1 to 200 characters"),
    ],
)
async def test_an_invalid_budget_is_rejected_with_the_valid_form(profile: Profile, fields: Any, said: str) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        with acting_for(BOSS), pytest.raises(InvalidRequest, match=said):
            await host.client(RateLimitingClient).set_budget(Budget(**{**DESK, "period": Budget.DAY, **fields}))


async def test_a_price_has_a_start_and_earlier_calls_keep_theirs(profile: Profile) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        with acting_for(BOSS):
            await client.set_price(Price(model="m", prompt_usd_per_million="0.0375"))
            later = Price(model="m", prompt_usd_per_million="1", completion_usd_per_million="2.5")
            later.effective_from.FromDatetime(datetime.now(UTC) + timedelta(days=1))
            await client.set_price(later)
            prices = (await client.list_prices(ListPricesRequest())).prices
            assert [(p.prompt_usd_per_million, p.completion_usd_per_million) for p in prices] == [
                ("0.0375", "0.00"),
                ("1.00", "2.50"),
            ]
            past = Price(model="m", prompt_usd_per_million="1")
            past.effective_from.FromDatetime(datetime.now(UTC) - timedelta(days=1))
            with pytest.raises(InvalidRequest, match="the past keeps its prices"):
                await client.set_price(past)
        details = [found["details"] for found in records(profile, "price.set")]
        assert details[1]["before"]["prompt_usd_per_million"] == "0.0375"


async def test_limits_of_every_subject_are_watched_and_taken_away(profile: Profile) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        async with aclosing(client.watch_policy(WatchPolicyRequest())) as news:
            assert (await anext(news)).limits == []
            with acting_for(BOSS):
                strict = Limit(subject=Block.MODEL, model="m", concurrent=2, when_lost=Limit.FAIL_CLOSED)
                await client.set_limit(strict)
                sliding = Limit(subject=Block.DESK, desk="research", tokens_per_minute=9, algorithm=Limit.SLIDING)
                await client.set_limit(sliding)
            async for policy in news:
                if len(policy.limits) == 2:
                    break
        found = {limit.subject: limit for limit in policy.limits}
        assert (found[Block.MODEL].concurrent, found[Block.MODEL].when_lost) == (2, Limit.FAIL_CLOSED)
        assert (found[Block.DESK].tokens_per_minute, found[Block.DESK].algorithm) == (9, Limit.SLIDING)
        with acting_for(BOSS):
            await client.remove_limit(RemoveLimitRequest(subject=Block.DESK, name="research"))
            left = (await client.list_limits(ListLimitsRequest())).limits
        assert [limit.subject for limit in left] == [Block.MODEL]


async def test_reported_usage_counts_once_and_is_charged_and_audited(profile: Profile) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        with acting_for(BOSS):
            await client.set_price(Price(model="vllm", prompt_usd_per_million="1", completion_usd_per_million="2"))
            await client.set_budget(Budget(**DESK, period=Budget.MONTH, amount="1"))
        before = [sample(*one) for one in METERED]
        batch = [
            usage("a", trace_id=TRACE),
            usage("b", counted=False, flags="DC"),
            usage("c", counted=False, status=503),
        ]
        await asyncio.gather(
            *(client.report_usage(ReportUsageRequest(data_plane="dp", usages=batch)) for _ in range(3)),
            client.report_usage(ReportUsageRequest(data_plane="dp", usages=[*batch[:1], *batch[:1]])),
        )
        ruled = 4096 * 2000  # what nobody counted is charged by the rule
        assert [sample(*one) - was for one, was in zip(METERED, before, strict=True)] == [
            100,
            50 + 4096,
            pytest.approx((200_000 + ruled) / 1e9),
        ]
        with acting_for(BOSS):

            async def spent() -> str:
                return (await client.list_budgets(ListBudgetsRequest())).budgets[0].spent

            async with asyncio.timeout(20):
                while await spent() != f"{(200_000 + ruled) / 1e9:.9f}".rstrip("0"):
                    await asyncio.sleep(0.02)
            found = await client.get_spend(GetSpendRequest(by="key"))
        assert [(line.name, line.calls, line.prompt_tokens) for line in found.lines] == [("key_1", 3, 100)]
    audited = records(profile, "model.pass")
    assert sorted((a["details"]["request_id"], a["outcome"], a["details"]["counted_by"]) for a in audited) == [
        ("a", "ok", "engine"),
        ("b", "uncounted", "rule"),
        ("c", "failed", "nothing"),
    ]
    traces = {a["details"]["request_id"]: a["trace_id"] for a in audited}
    assert traces == {"a": TRACE, "b": "", "c": ""}  # the caller's, never that of the report
    assert {(a["org"], a["desk"], a["actor"], a["resource"]) for a in audited} == {
        ("acme", "research", "key_1", "model/vllm")
    }


async def test_a_model_without_a_price_is_not_a_label(profile: Profile) -> None:
    word = "zebra-of-the-caller"
    report = usage("z")
    report.model = word
    async with hosted(profile, ["rate_limiting"]) as host:
        unnamed = PASSED | {"gen_ai_request_model": "", "gen_ai_response_model": "", "gen_ai_token_type": "input"}
        before = sample("gen_ai_client_token_usage_sum", unnamed)
        await host.client(RateLimitingClient).report_usage(ReportUsageRequest(usages=[report]))
        assert sample("gen_ai_client_token_usage_sum", unnamed) == before + 100
    assert word not in generate_latest().decode()


@pytest.mark.parametrize(
    ("fields", "charged"),
    [
        ({"status": 0, "upstream": "vllm", "flags": "DC"}, (12_000, 4096, "uncounted", "rule")),
        ({"status": 0, "upstream": "", "flags": "DC"}, (0, 0, "failed", "nothing")),  # no upstream was asked
        ({"status": 200, "upstream": "vllm", "flags": "DC"}, (12_000, 4096, "uncounted", "rule")),
        ({"status": 500, "upstream": "vllm"}, (0, 0, "failed", "nothing")),
    ],
)
async def test_a_client_that_disconnects_pays_for_the_prompt(profile: Profile, fields: Any, charged: Any) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        left = usage("a", counted=False, bytes_in=12_000, **fields)
        await host.client(RateLimitingClient).report_usage(ReportUsageRequest(usages=[left]))
    with psycopg.connect(profile.postgres) as connection:
        query = "select prompt_tokens, completion_tokens, outcome, counted_by from metering.ledger"
        assert connection.execute(query).fetchone() == charged


async def test_usage_of_a_clock_that_is_ahead_is_of_now(profile: Profile) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        client, ahead = host.client(RateLimitingClient), usage("a")
        ahead.at.FromDatetime(datetime.now(UTC) + timedelta(days=1))
        with acting_for(BOSS):
            await client.set_price(Price(model="vllm", completion_usd_per_million="10"))
            await client.set_budget(Budget(**DESK, period=Budget.DAY, amount="1"))
            await counted_budgets(client)  # from here on each report counts at once
            await client.report_usage(ReportUsageRequest(usages=[usage("b"), ahead]))
            (budget,) = await counted_budgets(client)
        assert budget.spent == "0.001"
    with psycopg.connect(profile.postgres) as connection:
        assert connection.execute("select count(*) from metering.ledger where at > now()").fetchone() == (0,)


async def test_an_invalid_usage_report_names_the_problem(profile: Profile) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        for wrong, said in [
            (usage(""), r"usages\[1\].request_id has 0 characters"),
            (Usage(request_id="x", org="o", desk="d", key="k", model="m"), "at is missing"),
        ]:
            with pytest.raises(InvalidRequest, match=said):
                await client.report_usage(ReportUsageRequest(usages=[usage("good"), wrong]))
        with psycopg.connect(profile.postgres) as connection:
            assert connection.execute("select count(*) from metering.ledger").fetchone() == (0,)


async def test_an_exhausted_budget_blocks_until_it_is_raised_and_only_active_calls_overrun(profile: Profile) -> None:
    """The report that reaches the cap makes the block; what data planes let through before they hear of it counts."""
    under_way = 8
    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        with acting_for(BOSS):
            await client.set_price(Price(model="vllm", completion_usd_per_million="10"))  # a call costs 0.0005
            await client.set_budget(Budget(**DESK, period=Budget.DAY, amount="0.01"))
        wanted = Block(subject=Block.DESK, org="acme", name="research", reason=Block.MONEY)
        blocked = []
        async with aclosing(client.watch_limits(WatchLimitsRequest())) as news:
            for number in range(20):
                await client.report_usage(ReportUsageRequest(usages=[usage(f"r{number}")]))
                with acting_for(BOSS):
                    blocked.append(wanted in (await client.list_limits(ListLimitsRequest())).blocks)
            assert blocked == [False] * 19 + [True]
            async for limits in news:
                if wanted in limits.blocks:
                    break
            late = [ReportUsageRequest(usages=[usage(f"late{number}")]) for number in range(under_way)]
            await asyncio.gather(*(client.report_usage(report) for report in late))
            with acting_for(BOSS):
                (budget,) = await counted_budgets(client)
                assert (budget.spent, budget.left) == ("0.014", "0.00")
                await client.set_budget(Budget(**DESK, period=Budget.DAY, amount="1"))
            async for limits in news:
                if wanted not in limits.blocks:
                    break


async def test_total_spending_includes_lines_that_are_not_shown(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spend, "MAX_LINES", 2)
    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        with acting_for(BOSS):
            await client.set_price(Price(model="vllm", completion_usd_per_million="10"))
        used = [usage(f"r{number}") for number in range(3)]
        for number, one in enumerate(used):
            one.key = f"key_{number}"
        await client.report_usage(ReportUsageRequest(usages=used))
        with acting_for(BOSS):
            found = await client.get_spend(GetSpendRequest(by="key"))
        assert (len(found.lines), found.usd) == (2, "0.0015")


async def test_tokens_of_the_minute_block_until_the_window_ends(profile: Profile) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        await announce(client, "key_1")
        with acting_for(BOSS):
            await client.set_limit(Limit(key="key_1", tokens_per_minute=100, algorithm=Limit.SLIDING))
        await client.report_usage(ReportUsageRequest(usages=[usage("a")]))
        async with aclosing(client.watch_limits(WatchLimitsRequest())) as news:
            async for limits in news:
                if limits.blocks:
                    break
            assert [(b.subject, b.name, b.reason) for b in limits.blocks] == [(Block.KEY, "key_1", Block.TOKENS)]
            with psycopg.connect(profile.postgres) as connection:
                row = connection.execute("select until from rate_limiting.block").fetchone()
                assert row is not None
                (until,) = row
                assert timedelta(seconds=55) < until - datetime.now(UTC) < timedelta(seconds=66)
            with acting_for(BOSS):
                await client.remove_limit(RemoveLimitRequest(subject=Block.KEY, name="key_1"))
            async for limits in news:
                if not limits.blocks:
                    break


async def test_without_valkey_reported_usage_blocks_by_the_ledger(profile: Profile) -> None:
    away = profile.model_copy(update={"valkey": "unix:///nowhere"})
    async with hosted(away, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        with acting_for(BOSS):
            await client.set_price(Price(model="vllm", completion_usd_per_million="10"))
            await client.set_budget(Budget(**DESK, period=Budget.TOTAL, amount="0.0005"))
        await client.report_usage(ReportUsageRequest(usages=[usage("a")]))
        with acting_for(BOSS):
            found = await client.list_limits(ListLimitsRequest())
        assert [(b.name, b.reason) for b in found.blocks] == [("research", Block.MONEY)]


async def test_without_valkey_everybody_is_looked_at_less_often(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tick a second sums up the whole ledger only once in ten seconds."""
    asked: list[int] = []
    whole = sums.spent

    async def counted(connection, subjects, now):
        asked.append(len(subjects))
        return await whole(connection, subjects, now)

    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        await announce(client, "key_1")
        with acting_for(BOSS):
            for subject in (DESK, {"subject": Block.ORG}, {"subject": Block.KEY, "name": "key_1"}):
                await client.set_budget(Budget(**subject, period=Budget.TOTAL, amount="0.0005"))
            await client.set_price(Price(model="vllm", completion_usd_per_million="10"))
        await client.report_usage(ReportUsageRequest(usages=[usage("a")]))
        monkeypatch.setattr(sums, "spent", counted)
        database, gone, now = Database(profile.postgres, "rate_limiting"), Counters("unix:///nowhere"), 0.0
        await database.start("drw.gateway.rate_limiting")
        kept = LimitStore(database)
        looking = exhausted_subjects.ExhaustedSubjects(kept, gone, lambda: now)
        for _ in range(2):
            for _ in range(3):
                await looking.renew()
            now += 10
        assert asked == [3, 3]
        found = await kept.blocks(datetime.now(UTC))
        assert sorted((b.subject, b.name) for b in found) == [
            (Block.KEY, "key_1"),
            (Block.DESK, "research"),
            (Block.ORG, ""),
        ]
        await database.stop()
        await gone.close()
