"""Limits, budgets, prices and spend by command and over HTTP."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from agent.data_plane import GatewayHarness
from agent.delivery.test_records import drw
from drw.api.gateway.v1.rate_limiting_pb2 import ReportUsageRequest, Usage
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient

SCOPES = ("limits:write", "org:admin", "platform:admin", "platform:read", "keys:read")


def usage(request_id: str) -> Usage:
    usage = Usage(
        request_id=request_id, org="local", desk="trading", key="key_1", model="vllm", status=200,
        prompt_tokens=1_000_000, completion_tokens=500_000, counted=True,
    )  # fmt: skip
    usage.at.FromDatetime(datetime.now(UTC))
    return usage


async def test_budgets_prices_and_spend_by_command(gateway: GatewayHarness) -> None:
    secret = await gateway.create_key(*SCOPES)
    output = await drw(gateway, secret, "prices", "set", "vllm", "--prompt", "2", "--completion", "10")
    assert output.startswith("vllm costs 2 and 10 USD a million from ")
    assert "vllm" in await drw(gateway, secret, "prices", "list")
    (price,) = json.loads(await drw(gateway, secret, "prices", "list", "--json"))
    assert (price["prompt_usd_per_million"], price["completion_usd_per_million"]) == ("2.00", "10.00")

    arguments = ["budgets", "set", "12.5", "--desk", "trading", "--period", "day"]
    assert await drw(gateway, secret, *arguments) == "the desk trading may spend 12.50 usd (day)\n"
    limit = ["limits", "set", "--desk", "trading", "--rpm", "60", "--tpm", "1000000", "--concurrent", "3"]
    assert await drw(gateway, secret, *limit, "--algorithm", "sliding") == "the desk trading has new limits\n"
    await gateway.host.client(RateLimitingClient).report_usage(ReportUsageRequest(usages=[usage("a"), usage("b")]))

    (budget,) = json.loads(await drw(gateway, secret, "budgets", "list", "--json"))
    assert (budget["amount"], budget["spent"], budget["left"]) == ("12.50", "14.00", "0.00")
    assert "12.50" in await drw(gateway, secret, "budgets", "list")
    listed = await drw(gateway, secret, "limits", "list")
    (desk_line,) = [line for line in listed.splitlines() if line.startswith("desk trading")]
    assert desk_line.split()[2:] == ["60", "1000000", "3", "sliding", "local_share", "money", "tokens"]
    spend = await drw(gateway, secret, "spend", "--by", "model")
    assert spend.splitlines()[1].split() == ["vllm", "2", "2000000", "1000000", "14.00"]
    assert spend.splitlines()[-1].endswith(" UTC: 14.00 USD")
    assert "nothing spent" in await drw(gateway, secret, "spend", "--since", "2099-01-01")

    desk_option = ["--desk", "trading"]
    assert "no such budget any more" in await drw(gateway, secret, "budgets", "remove", *desk_option, "--period", "day")
    assert "no limits of its own any more" in await drw(gateway, secret, "limits", "remove", *desk_option)
    assert "no budgets" in await drw(gateway, secret, "budgets", "list")
    error = await drw(gateway, secret, "budgets", "set", "a lot", "--org", code=2)
    assert error.startswith("drw: ") and "write dollars as in '12.50'" in error


async def test_budget_and_price_endpoints_require_their_scopes(gateway: GatewayHarness) -> None:
    body = {"subject": "DESK", "name": "research", "period": "DAY", "amount": "1"}
    async with gateway.client(await gateway.create_key("models:read")) as client:
        assert (await client.post("/api/v1/budgets", json=body)).status_code == 403
        assert (await client.post("/api/v1/prices", json={"model": "m"})).status_code == 403
    async with gateway.client(await gateway.create_key(*SCOPES)) as client:
        created = await client.post("/api/v1/budgets", json=body)
        assert (created.status_code, created.json()["amount"], created.json()["unit"]) == (200, "1.00", "USD")
        assert [b["name"] for b in (await client.get("/api/v1/budgets")).json()["budgets"]] == ["research"]
        assert (await client.get("/api/v1/spend", params={"by": "mood"})).status_code == 400
        assert (await client.get("/api/v1/spend")).json()["usd"] == "0.00"
        assert (await client.post("/api/v1/budgets:remove", json=body)).status_code == 200
