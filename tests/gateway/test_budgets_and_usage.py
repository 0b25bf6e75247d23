"""Limits, budgets and prices, the usage that data planes report, and blocks of exhausted subjects."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

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
from drw.billing.subjects import Subject
from drw.gateway.rate_limiting import exhausted_subjects, spend
from drw.gateway.rate_limiting.store import LimitStore
from drw.kernel.errors import Forbidden, InvalidRequest, NotFound
from drw.kernel.rpc.context import SCOPES, Principal, acting_for
from drw.kernel.runtime.settings import Profile
from drw.kernel.storage.database import Connection, Database
from support.database.audit_records import audit_records
from support.database.published import published
from support.gateway.keys import announce
from support.gateway.money import counted_budgets
from support.hosting import hosted
from support.json_types import Json, JsonObject

BOSS = Principal("acme", "research", "key_boss", frozenset(SCOPES))
TRACE = "0af7651916cd43dd8448eb211c80319c"
PASS_THROUGH_LABELS = {
    "gen_ai_operation_name": "pass_through",
    "gen_ai_provider_name": "up",
    "gen_ai_request_model": "vllm",
    "gen_ai_response_model": "vllm",
}
METRICS = [
    ("gen_ai_client_token_usage_sum", PASS_THROUGH_LABELS | {"gen_ai_token_type": "input"}),
    ("gen_ai_client_token_usage_sum", PASS_THROUGH_LABELS | {"gen_ai_token_type": "output"}),
    ("drw_cost_usd_total", {"org": "acme", "desk": "research", "gen_ai_response_model": "vllm"}),
]
DESK: JsonObject = {"subject": Block.DESK, "name": "research"}


def sample(name: str, labels: dict[str, str]) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def usage(request_id: str, *, counted: bool = True, status: int = 200, upstream: str = "up", **fields: Json) -> Usage:
    usage_message = Usage(
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
    usage_message.at.FromDatetime(datetime.now(UTC))
    return usage_message


@pytest.mark.parametrize("how", ["together", "strict", "apart"])
async def test_budgets_are_set_listed_and_removed_and_each_change_is_audited(profile: Profile, how: str) -> None:
    async with hosted(profile, ["rate_limiting"], how) as host:
        client = host.client(RateLimitingClient)
        with acting_for(BOSS):
            for amount in ("12.5", "20"):
                await client.set_budget(Budget(**DESK, period=Budget.DAY, amount=amount))
            await client.set_budget(Budget(subject=Block.ORG, period=Budget.TOTAL, unit=Budget.TOKENS, amount="1000"))
            budgets = (await client.list_budgets(ListBudgetsRequest())).budgets
            assert [(b.subject, b.name, b.unit, b.amount) for b in budgets] == [
                (Block.DESK, "research", Budget.USD, "20.00"),
                (Block.ORG, "", Budget.TOKENS, "1000"),
            ]
            assert budgets[0].HasField("resets_at") and not budgets[1].HasField("resets_at")
            removed_budget = Budget(**DESK, period=Budget.DAY)
            await client.remove_budget(removed_budget)
            with pytest.raises(NotFound, match="desk 'research' has no such budget"):
                await client.remove_budget(removed_budget)
    details = [budgets["details"] for budgets in audit_records(profile, "budget.set")]
    assert [(d["before"] and d["before"]["amount"], d["after"]["amount"]) for d in details] == [
        (None, "12.50"),
        ("12.50", "20.00"),
        (None, "1000"),
    ]
    (removed,) = audit_records(profile, "budget.remove")
    assert (removed["resource"], removed["actor"], removed["details"]["after"]) == ("desk/research", "key_boss", None)


async def test_changing_budgets_and_prices_requires_permission(profile: Profile, caller: Principal) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)

        async def budget(principal: Principal, **fields: Json) -> None:
            with acting_for(principal):
                await client.set_budget(Budget(**{"period": Budget.DAY, "amount": "1", **fields}))

        await announce(client, "key_1")
        limits_writer = replace(caller, scopes=frozenset({"limits:write"}))
        await budget(limits_writer, **DESK)
        await budget(limits_writer, subject=Block.KEY, name="key_1")
        cases: list[tuple[JsonObject, str]] = [
            ({"subject": Block.DESK, "name": "trading"}, "org:admin"),
            ({"subject": Block.ORG}, "org:admin"),
            ({"subject": Block.MODEL, "name": "gpt"}, "platform:admin"),
            ({**DESK, "org": "other"}, "not to 'other'"),
        ]
        for fields, message in cases:
            with pytest.raises(Forbidden, match=message):
                await budget(limits_writer, **fields)
        with pytest.raises(NotFound, match="org:admin"):  # the key is of the desk research
            await budget(replace(limits_writer, desk="trading"), subject=Block.KEY, name="key_1")
        with pytest.raises(Forbidden, match="limits:write"):
            await budget(replace(caller, scopes=frozenset({"keys:write"})), **DESK)
        with acting_for(limits_writer), pytest.raises(Forbidden, match="platform:admin"):
            await client.set_price(Price(model="m", prompt_usd_per_million="1"))
        with acting_for(replace(caller, desk="trading")):
            assert (await client.list_budgets(ListBudgetsRequest())).budgets == []
        with acting_for(replace(BOSS, org="other")):
            assert (await client.list_budgets(ListBudgetsRequest())).budgets == []
            assert (await client.get_spend(GetSpendRequest())).lines == []


@pytest.mark.parametrize(
    ("fields", "message"),
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
async def test_an_invalid_budget_is_rejected_with_the_valid_form(
    profile: Profile, fields: JsonObject, message: str
) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        with acting_for(BOSS), pytest.raises(InvalidRequest, match=message):
            await host.client(RateLimitingClient).set_budget(Budget(**{**DESK, "period": Budget.DAY, **fields}))


async def test_a_price_starts_at_a_time_that_is_not_in_the_past(profile: Profile) -> None:
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
            with pytest.raises(InvalidRequest, match="prices cannot change in the past"):
                await client.set_price(past)
        details = [record["details"] for record in audit_records(profile, "price.set")]
        assert details[1]["before"]["prompt_usd_per_million"] == "0.0375"


async def test_watchers_receive_limits_of_models_and_desks_and_limits_are_removed(profile: Profile) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        async with aclosing(client.watch_policy(WatchPolicyRequest())) as updates:
            assert (await anext(updates)).limits == []
            with acting_for(BOSS):
                strict = Limit(subject=Block.MODEL, model="m", concurrent=2, when_lost=Limit.FAIL_CLOSED)
                await client.set_limit(strict)
                sliding = Limit(subject=Block.DESK, desk="research", tokens_per_minute=9, algorithm=Limit.SLIDING)
                await client.set_limit(sliding)
            async for policy in updates:
                if len(policy.limits) == 2:
                    break
        limits = {limit.subject: limit for limit in policy.limits}
        assert (limits[Block.MODEL].concurrent, limits[Block.MODEL].when_lost) == (2, Limit.FAIL_CLOSED)
        assert (limits[Block.DESK].tokens_per_minute, limits[Block.DESK].algorithm) == (9, Limit.SLIDING)
        with acting_for(BOSS):
            await client.remove_limit(RemoveLimitRequest(subject=Block.DESK, name="research"))
            remaining = (await client.list_limits(ListLimitsRequest())).limits
        assert [limit.subject for limit in remaining] == [Block.MODEL]


async def test_reported_usage_is_charged_and_audited_once(profile: Profile) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        with acting_for(BOSS):
            await client.set_price(Price(model="vllm", prompt_usd_per_million="1", completion_usd_per_million="2"))
            await client.set_budget(Budget(**DESK, period=Budget.MONTH, amount="1"))
        before = [sample(*metric) for metric in METRICS]
        batch = [
            usage("a", trace_id=TRACE),
            usage("b", counted=False, flags="DC"),
            usage("c", counted=False, status=503),
        ]
        await asyncio.gather(
            *(client.report_usage(ReportUsageRequest(data_plane="dp", usages=batch)) for _ in range(3)),
            client.report_usage(ReportUsageRequest(data_plane="dp", usages=[*batch[:1], *batch[:1]])),
        )
        estimated = 4096 * 2000  # uncounted completions are charged with the tokens of the settings
        assert [sample(*metric) - previous for metric, previous in zip(METRICS, before, strict=True)] == [
            100,
            50 + 4096,
            pytest.approx((200_000 + estimated) / 1e9),
        ]
        with acting_for(BOSS):

            async def spent() -> str:
                return (await client.list_budgets(ListBudgetsRequest())).budgets[0].spent

            async with asyncio.timeout(20):
                while await spent() != f"{(200_000 + estimated) / 1e9:.9f}".rstrip("0"):
                    await asyncio.sleep(0.02)
            spending = await client.get_spend(GetSpendRequest(by="key"))
        assert [(line.name, line.calls, line.prompt_tokens) for line in spending.lines] == [("key_1", 3, 100)]
    audited = audit_records(profile, "model.pass")
    assert sorted((a["details"]["request_id"], a["outcome"], a["details"]["counted_by"]) for a in audited) == [
        ("a", "ok", "engine"),
        ("b", "uncounted", "rule"),
        ("c", "failed", "nothing"),
    ]
    traces = {a["details"]["request_id"]: a["trace_id"] for a in audited}
    assert traces == {"a": TRACE, "b": "", "c": ""}  # the trace of the caller, not of the report
    assert {(a["org"], a["desk"], a["actor"], a["resource"]) for a in audited} == {
        ("acme", "research", "key_1", "model/vllm")
    }


async def test_a_model_without_a_price_is_not_a_metric_label(profile: Profile) -> None:
    model = "zebra-of-the-caller"
    report = usage("z")
    report.model = model
    async with hosted(profile, ["rate_limiting"]) as host:
        labels = PASS_THROUGH_LABELS | {
            "gen_ai_request_model": "",
            "gen_ai_response_model": "",
            "gen_ai_token_type": "input",
        }
        before = sample("gen_ai_client_token_usage_sum", labels)
        await host.client(RateLimitingClient).report_usage(ReportUsageRequest(usages=[report]))
        assert sample("gen_ai_client_token_usage_sum", labels) == before + 100
    assert model not in generate_latest().decode()


@pytest.mark.parametrize(
    ("fields", "charged"),
    [
        ({"status": 0, "upstream": "vllm", "flags": "DC"}, (12_000, 4096, "uncounted", "rule")),
        ({"status": 0, "upstream": "", "flags": "DC"}, (0, 0, "failed", "nothing")),  # no upstream received the request
        ({"status": 200, "upstream": "vllm", "flags": "DC"}, (12_000, 4096, "uncounted", "rule")),
        ({"status": 500, "upstream": "vllm"}, (0, 0, "failed", "nothing")),
    ],
)
async def test_a_client_that_disconnects_pays_for_the_prompt(
    profile: Profile, fields: JsonObject, charged: tuple[int, int, str, str]
) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        report = usage("a", counted=False, bytes_in=12_000, **fields)
        await host.client(RateLimitingClient).report_usage(ReportUsageRequest(usages=[report]))
    with psycopg.connect(profile.postgres) as connection:
        query = "select prompt_tokens, completion_tokens, outcome, counted_by from metering.ledger"
        assert connection.execute(query).fetchone() == charged


async def test_usage_with_a_future_time_is_recorded_now(profile: Profile) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        client, ahead = host.client(RateLimitingClient), usage("a")
        ahead.at.FromDatetime(datetime.now(UTC) + timedelta(days=1))
        with acting_for(BOSS):
            await client.set_price(Price(model="vllm", completion_usd_per_million="10"))
            await client.set_budget(Budget(**DESK, period=Budget.DAY, amount="1"))
            await counted_budgets(client)  # the counters are open: each report counts immediately
            await client.report_usage(ReportUsageRequest(usages=[usage("b"), ahead]))
            (budget,) = await counted_budgets(client)
        assert budget.spent == "0.001"
    with psycopg.connect(profile.postgres) as connection:
        assert connection.execute("select count(*) from metering.ledger where at > now()").fetchone() == (0,)


async def test_an_invalid_usage_report_names_the_problem(profile: Profile) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        for invalid, message in [
            (usage(""), r"usages\[1\].request_id has 0 characters"),
            (Usage(request_id="x", org="o", desk="d", key="k", model="m"), "at is missing"),
        ]:
            with pytest.raises(InvalidRequest, match=message):
                await client.report_usage(ReportUsageRequest(usages=[usage("good"), invalid]))
        with psycopg.connect(profile.postgres) as connection:
            assert connection.execute("select count(*) from metering.ledger").fetchone() == (0,)


async def test_an_exhausted_budget_blocks_its_subject_until_it_is_raised(profile: Profile) -> None:
    """The report that reaches the cap creates the block; usage of calls that were active by then still counts."""
    active_calls = 8
    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        with acting_for(BOSS):
            await client.set_price(Price(model="vllm", completion_usd_per_million="10"))  # a call costs 0.0005
            await client.set_budget(Budget(**DESK, period=Budget.DAY, amount="0.01"))
        expected_block = Block(subject=Block.DESK, org="acme", name="research", reason=Block.MONEY)
        blocked = []
        async with aclosing(client.watch_limits(WatchLimitsRequest())) as updates:
            for number in range(20):
                await client.report_usage(ReportUsageRequest(usages=[usage(f"r{number}")]))
                with acting_for(BOSS):
                    blocked.append(expected_block in (await client.list_limits(ListLimitsRequest())).blocks)
            assert blocked == [False] * 19 + [True]
            async for limits in updates:
                if expected_block in limits.blocks:
                    break
            reports = [ReportUsageRequest(usages=[usage(f"late{number}")]) for number in range(active_calls)]
            await asyncio.gather(*(client.report_usage(report) for report in reports))
            with acting_for(BOSS):
                (budget,) = await counted_budgets(client)
                assert (budget.spent, budget.left) == ("0.014", "0.00")
                await client.set_budget(Budget(**DESK, period=Budget.DAY, amount="1"))
            async for limits in updates:
                if expected_block not in limits.blocks:
                    break


async def test_total_spending_includes_omitted_lines(profile: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spend, "MAX_LINES", 2)
    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        with acting_for(BOSS):
            await client.set_price(Price(model="vllm", completion_usd_per_million="10"))
        usages = [usage(f"r{number}") for number in range(3)]
        for number, report in enumerate(usages):
            report.key = f"key_{number}"
        await client.report_usage(ReportUsageRequest(usages=usages))
        with acting_for(BOSS):
            spending = await client.get_spend(GetSpendRequest(by="key"))
        assert (len(spending.lines), spending.usd) == (2, "0.0015")


async def test_exhausted_tokens_per_minute_block_until_the_window_ends(profile: Profile) -> None:
    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        await announce(client, "key_1")
        with acting_for(BOSS):
            await client.set_limit(Limit(key="key_1", tokens_per_minute=100, algorithm=Limit.SLIDING))
        await client.report_usage(ReportUsageRequest(usages=[usage("a")]))
        async with aclosing(client.watch_limits(WatchLimitsRequest())) as updates:
            async for limits in updates:
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
            async for limits in updates:
                if not limits.blocks:
                    break


async def test_without_valkey_the_ledger_decides_blocks(profile: Profile) -> None:
    without_valkey = profile.model_copy(update={"valkey": "unix:///nowhere"})
    async with hosted(without_valkey, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        with acting_for(BOSS):
            await client.set_price(Price(model="vllm", completion_usd_per_million="10"))
            await client.set_budget(Budget(**DESK, period=Budget.TOTAL, amount="0.0005"))
        await client.report_usage(ReportUsageRequest(usages=[usage("a")]))
        with acting_for(BOSS):
            limits = await client.list_limits(ListLimitsRequest())
        assert [(b.name, b.reason) for b in limits.blocks] == [("research", Block.MONEY)]


async def test_without_valkey_all_subjects_are_checked_less_often(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tick runs each second, and sums the ledger once in ten seconds."""
    checked: list[int] = []
    original = sums.spending

    async def counting_spent(
        connection: Connection, subjects: list[Subject], now: datetime
    ) -> dict[Subject, dict[str, int]]:
        checked.append(len(subjects))
        return await original(connection, subjects, now)

    async with hosted(profile, ["rate_limiting"]) as host:
        client = host.client(RateLimitingClient)
        await announce(client, "key_1")
        with acting_for(BOSS):
            for subject in (DESK, {"subject": Block.ORG}, {"subject": Block.KEY, "name": "key_1"}):
                await client.set_budget(Budget(**subject, period=Budget.TOTAL, amount="0.0005"))
            await client.set_price(Price(model="vllm", completion_usd_per_million="10"))
        await client.report_usage(ReportUsageRequest(usages=[usage("a")]))
        monkeypatch.setattr(sums, "spending", counting_spent)
        database, counters, now = Database(profile.postgres, "rate_limiting"), Counters("unix:///nowhere"), 0.0
        await database.start("drw.gateway.rate_limiting")
        store = LimitStore(database)
        exhausted = exhausted_subjects.ExhaustedSubjects(store, counters, lambda: now)
        for _ in range(2):
            for _ in range(3):
                await exhausted.renew()
            now += 10
        assert checked == [3, 3]
        blocks = await store.blocks(datetime.now(UTC))
        assert sorted((b.subject, b.name) for b in blocks) == [
            (Block.KEY, "key_1"),
            (Block.DESK, "research"),
            (Block.ORG, ""),
        ]
        await database.stop()
        await counters.close()
    events = published(profile.postgres, "budget.nearly_spent")
    assert sorted((event["data"]["subject"], event["data"]["name"], event.get("desk")) for event in events) == [
        ("DESK", "research", "research"), ("KEY", "key_1", "research"), ("ORG", "acme", None),
    ]  # fmt: skip
    assert {(event["data"]["spent"], event["data"]["budget"]) for event in events} == {("0.0005", "0.0005")}
