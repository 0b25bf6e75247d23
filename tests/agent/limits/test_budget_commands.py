"""Limits, budgets, prices and spend by command and over HTTP, on the whole front door."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from agent.data_plane import Front
from agent.delivery.test_records import drw
from drw.api.gateway.v1.rate_limiting_pb2 import ReportUsageRequest, Usage
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient

SCOPES = ("limits:write", "org:admin", "platform:admin", "platform:read", "keys:read")


def usage(request_id: str) -> Usage:
    made = Usage(
        request_id=request_id, org="local", desk="trading", key="key_1", model="vllm", status=200,
        prompt_tokens=1_000_000, completion_tokens=500_000, counted=True,
    )  # fmt: skip
    made.at.FromDatetime(datetime.now(UTC))
    return made


async def test_money_is_bounded_priced_and_shown_by_command(front: Front) -> None:
    secret = await front.key(*SCOPES)
    said = await drw(front, secret, "prices", "set", "vllm", "--prompt", "2", "--completion", "10")
    assert said.startswith("vllm costs 2 and 10 USD a million from ")
    assert "vllm" in await drw(front, secret, "prices", "list")
    (price,) = json.loads(await drw(front, secret, "prices", "list", "--json"))
    assert (price["prompt_usd_per_million"], price["completion_usd_per_million"]) == ("2.00", "10.00")

    words = ["budgets", "set", "12.5", "--desk", "trading", "--period", "day"]
    assert await drw(front, secret, *words) == "the desk trading may spend 12.50 usd (day)\n"
    limit = ["limits", "set", "--desk", "trading", "--rpm", "60", "--tpm", "1000000", "--concurrent", "3"]
    assert await drw(front, secret, *limit, "--algorithm", "sliding") == "the desk trading has new limits\n"
    await front.host.client(RateLimitingClient).report_usage(ReportUsageRequest(usages=[usage("a"), usage("b")]))

    (budget,) = json.loads(await drw(front, secret, "budgets", "list", "--json"))
    assert (budget["amount"], budget["spent"], budget["left"]) == ("12.50", "14.00", "0.00")
    assert "12.50" in await drw(front, secret, "budgets", "list")
    listed = await drw(front, secret, "limits", "list")
    (row,) = [line for line in listed.splitlines() if line.startswith("desk trading")]
    assert row.split()[2:] == ["60", "1000000", "3", "sliding", "local_share", "money", "tokens"]
    spent = await drw(front, secret, "spend", "--by", "model")
    assert spent.splitlines()[1].split() == ["vllm", "2", "2000000", "1000000", "14.00"]
    assert spent.splitlines()[-1].endswith(" UTC: 14.00 USD")
    assert "nothing spent" in await drw(front, secret, "spend", "--since", "2099-01-01")

    gone = ["--desk", "trading"]
    assert "no such budget any more" in await drw(front, secret, "budgets", "remove", *gone, "--period", "day")
    assert "no limits of its own any more" in await drw(front, secret, "limits", "remove", *gone)
    assert "no budgets" in await drw(front, secret, "budgets", "list")
    wrong = await drw(front, secret, "budgets", "set", "a lot", "--org", code=2)
    assert wrong.startswith("drw: ") and "write dollars as in '12.50'" in wrong


async def test_money_over_http_asks_for_its_scopes(front: Front) -> None:
    body = {"subject": "DESK", "name": "research", "period": "DAY", "amount": "1"}
    async with front.client(await front.key("models:read")) as client:
        assert (await client.post("/api/v1/budgets", json=body)).status_code == 403
        assert (await client.post("/api/v1/prices", json={"model": "m"})).status_code == 403
    async with front.client(await front.key(*SCOPES)) as client:
        made = await client.post("/api/v1/budgets", json=body)
        assert (made.status_code, made.json()["amount"], made.json()["unit"]) == (200, "1.00", "USD")
        assert [b["name"] for b in (await client.get("/api/v1/budgets")).json()["budgets"]] == ["research"]
        assert (await client.get("/api/v1/spend", params={"by": "mood"})).status_code == 400
        assert (await client.get("/api/v1/spend")).json()["usd"] == "0.00"
        assert (await client.post("/api/v1/budgets:remove", json=body)).status_code == 200
