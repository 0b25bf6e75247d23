"""What binds the keys that keys make: limits, budgets and what was spent of them, lives, and other orgs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from drw.api.gateway.v1.authentication_pb2 import (
    CreateKeyRequest,
    GetKeyRequest,
    ListKeysRequest,
    PutDeskRequest,
    RetireSigningKeyRequest,
    RevokeKeyRequest,
    RotateKeyRequest,
)
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.gateway.v1.rate_limiting_pb2 import (
    Block,
    Budget,
    Limit,
    ListLimitsRequest,
    ReportUsageRequest,
    Usage,
)
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.billing.ledger.carryover import parts
from drw.billing.subjects import begins
from drw.gateway.authentication.keys.store import KeyStore
from drw.kernel.errors import Conflict, Forbidden, InvalidRequest, NotFound
from drw.kernel.rpc.context import SCOPES, Principal, acting_for
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile
from drw.local.first_key import OPERATOR
from support.hosting import hosted
from support.keys import vouch
from support.locks import waiting
from support.money import counted_budgets

SERVICES = ["authentication", "rate_limiting"]
BOSS = Principal("acme", "research", "key_boss", frozenset(SCOPES))
HOLDER = replace(BOSS, scopes=frozenset({"keys:write", "keys:read", "models:read"}))


@pytest.fixture(params=["together", "strict", "apart"])
async def host(profile: Profile, request: pytest.FixtureRequest) -> AsyncIterator[Host]:
    async with hosted(profile, SERVICES, request.param) as found:
        yield found


@pytest.fixture
async def alone(profile: Profile) -> AsyncIterator[Host]:
    async with hosted(profile, SERVICES) as found:
        yield found


async def make(host, who: Principal = BOSS, **fields):
    with acting_for(who):
        wish = CreateKeyRequest(name="n", **{"scopes": ["models:read"], **fields})
        return (await host.client(AuthenticationClient).create_key(wish)).key


async def rotate(host, key: str, who: Principal = BOSS, **fields):
    with acting_for(who):
        return (await host.client(AuthenticationClient).rotate_key(RotateKeyRequest(id=key, **fields))).key


async def limits(host) -> dict[str, Limit]:
    with acting_for(BOSS):
        found = (await host.client(RateLimitingClient).list_limits(ListLimitsRequest())).limits
    return {one.key: one for one in found}


async def budgets(host) -> dict[tuple[str, str], tuple[str, str]]:
    with acting_for(BOSS):
        found = await counted_budgets(host.client(RateLimitingClient))
    return {(one.name, Budget.Period.Name(one.period)): (one.amount, one.spent) for one in found}


async def spend(host, key: str, tokens: int, at: datetime | None = None, id: str = "r") -> None:
    fields: dict[str, Any] = {
        "org": "acme",
        "desk": "research",
        "key": key,
        "model": "m",
        "status": 200,
    }
    used = Usage(request_id=f"{id}-{key}", completion_tokens=tokens, counted=True, **fields)
    used.at.FromDatetime(at or datetime.now(UTC))
    await host.client(RateLimitingClient).report_usage(ReportUsageRequest(data_plane="d", usages=[used]))


def query(profile, text: str, *args) -> list[tuple]:
    with psycopg.connect(profile.postgres, autocommit=True) as connection:
        done = connection.execute(text.encode(), args)
        return done.fetchall() if done.description else []


def records(profile, action: str) -> list[dict]:
    rows = query(profile, "select record from audit.inbox order by id")
    return [found for (row,) in rows if (found := json.loads(row))["action"] == action]


async def test_a_successor_is_bound_as_its_predecessor(host: Host) -> None:
    old = await make(host, requests_per_minute=600)
    limiting = host.client(RateLimitingClient)
    with acting_for(BOSS):
        lowered: dict[str, Any] = {"requests_per_minute": 60, "tokens_per_minute": 1000, "concurrent": 3}
        await limiting.set_limit(Limit(key=old.id, algorithm=Limit.SLIDING, when_lost=Limit.FAIL_CLOSED, **lowered))
        for period, amount in ((Budget.DAY, "500"), (Budget.TOTAL, "9000")):
            await limiting.set_budget(Budget(name=old.id, period=period, unit=Budget.TOKENS, amount=amount))
    await budgets(host)  # from here on what is spent counts at once
    await spend(host, old.id, 123)
    new = await rotate(host, old.id, overlap_seconds=60)
    assert new.requests_per_minute == 60
    found = await limits(host)
    before, after = found[old.id], found[new.id]
    assert after.expires_at == new.expires_at
    assert (before.counted_as, after.counted_as) == ("", old.id)
    after.key, before.key, after.counted_as = "", "", ""
    before.expires_at.CopyFrom(after.expires_at)
    assert before == after
    held = await budgets(host)
    for key in (old.id, new.id):
        assert held[key, "DAY"] == ("500", "123") and held[key, "TOTAL"] == ("9000", "123")
    # What each spends from then on counts for it; and the next successor takes over both.
    await spend(host, new.id, 7)
    held = await budgets(host)
    assert (held[old.id, "TOTAL"][1], held[new.id, "TOTAL"][1]) == ("123", "130")
    last = await rotate(host, new.id)
    assert (await budgets(host))[last.id, "TOTAL"] == ("9000", "130")


async def test_carried_over_spending_survives_a_loss_of_the_counters(profile: Profile) -> None:
    async with hosted(profile, SERVICES) as host:
        old = await make(host)
        with acting_for(BOSS):
            wish = Budget(name=old.id, period=Budget.MONTH, unit=Budget.TOKENS, amount="100")
            await host.client(RateLimitingClient).set_budget(wish)
        await budgets(host)
        await spend(host, old.id, 99)
        new = await rotate(host, old.id)
        query(profile, "update metering.book set id = 'another'")  # so that the counters are made from the books again
    async with hosted(profile, SERVICES) as host:
        assert (await budgets(host))[new.id, "MONTH"][1] == "99"
        await spend(host, new.id, 1)
        with acting_for(BOSS):
            found = await host.client(RateLimitingClient).list_limits(ListLimitsRequest())
        assert {(block.name, block.reason) for block in found.blocks} == {(new.id, Block.MONEY)}


def test_carried_over_spending_keeps_its_period() -> None:
    now = datetime(2026, 11, 25, 12, tzinfo=UTC)
    spent = {"tn": 9, "tt": 90, "mn": 5, "mt": 50, "dn": 2, "dt": 20}
    day, month = begins("day", now), begins("month", now)
    assert list(parts(spent, now)) == [(month - timedelta(milliseconds=1), 4, 40), (month, 3, 30), (day, 2, 20)]
    first = datetime(2026, 11, 1, 12, tzinfo=UTC)
    spent |= {"mn": 2, "mt": 20}
    assert [at for at, _, _ in parts(spent, first)] == [month - timedelta(milliseconds=1), month]


async def test_a_caller_cannot_grant_more_requests_per_minute_than_it_has(host: Host) -> None:
    mine = await make(host, requests_per_minute=60, scopes=sorted(HOLDER.scopes))
    me = replace(HOLDER, key=mine.id)
    with pytest.raises(Forbidden, match=f"{mine.id!r} has 60 requests a minute; a key with 61 needs 'limits:write'"):
        await make(host, me, requests_per_minute=61)
    assert (await make(host, me, requests_per_minute=59)).requests_per_minute == 59
    made = await make(host, me)
    assert made.requests_per_minute == (await limits(host))[made.id].requests_per_minute == 60
    assert (await rotate(host, mine.id, me, overlap_seconds=60)).requests_per_minute == 60
    other = await make(host)
    with pytest.raises(Forbidden, match="a key with 600 needs 'limits:write'"):
        await rotate(host, other.id, me)
    # Whom nothing of their own binds has the default.
    with pytest.raises(Forbidden, match="has 600 requests a minute"):
        await make(host, HOLDER, requests_per_minute=601)
    assert (await make(host, HOLDER)).requests_per_minute == 0
    assert (await make(host, replace(me, scopes=me.scopes | {"limits:write"}), requests_per_minute=61)).id


async def test_a_rotation_that_fails_leaves_nothing(
    host: Host, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await make(host, requests_per_minute=7)
    first = await rotate(host, old.id, overlap_seconds=60)
    there, told = set(await limits(host)), len(records(profile, "limit.set"))
    with pytest.raises(Conflict, match="has a successor already"):
        await rotate(host, old.id)
    assert set(await limits(host)) == there and len(records(profile, "limit.set")) == told

    async def lost(*args) -> None:
        return None

    monkeypatch.setattr(KeyStore, "set_successor", lost)  # somebody else was there first
    with pytest.raises(Conflict, match="has a successor already"):
        await rotate(host, first.id)
    assert set(await limits(host)) == there


async def test_a_key_that_comes_too_late_leaves_no_limit(alone: Host, profile: Profile) -> None:
    """The desk is narrowed between the limit and the key."""
    with acting_for(BOSS):
        desk = PutDeskRequest(name="late", scopes=["models:read", "models:invoke"])
        await alone.client(AuthenticationClient).put_desk(desk)
    with psycopg.connect(profile.postgres) as connection:
        connection.execute("update authentication.desk set scopes = '{models:invoke}' where name = 'late'")
        making = asyncio.create_task(make(alone, desk="late", requests_per_minute=7))
        await waiting(profile, 1)
        assert len(await limits(alone)) == 1
        connection.commit()
        with pytest.raises(Forbidden, match="cannot have the scope 'models:read'"):
            await making
    assert not await limits(alone)


async def test_the_creator_of_a_key_is_recorded(host: Host, profile: Profile) -> None:
    made = await make(host, BOSS)
    assert (made.created_by, made.borrowed) == ("key_boss", False)
    with acting_for(BOSS):
        (listed,) = (await host.client(AuthenticationClient).list_keys(ListKeysRequest())).keys
    assert listed == made
    details = records(profile, "key.create")[0]["details"]
    assert (details["name"], details["requests_per_minute"], details["borrowed"]) == ("n", 0, False)


@pytest.mark.parametrize("who", ["oidc:okta:u1", "cert:pricing"])
async def test_a_borrowed_key_does_not_outlive_the_identity_of_its_creator(
    host: Host, profile: Profile, who: str
) -> None:
    await vouch(host, who)
    person = replace(BOSS, key=who)
    made = await make(host, person)
    assert (made.created_by, made.borrowed) == (who, True)
    assert made.expires_at.seconds - made.created_at.seconds == 86400
    with pytest.raises(InvalidRequest, match="it can be 60 to 86400, by default 86400: the caller's own identity is"):
        await make(host, person, ttl_seconds=86401)
    # Nor does what is made with such a key, in whatever way.
    borrower = replace(BOSS, key=made.id)
    with pytest.raises(InvalidRequest, match="the caller's own identity is short-lived"):
        await make(host, borrower, ttl_seconds=86400 * 2)
    for next_one in (await make(host, borrower), await rotate(host, (await make(host)).id, borrower)):
        assert next_one.borrowed and next_one.expires_at.seconds <= made.expires_at.seconds
    own = await rotate(host, made.id, borrower, overlap_seconds=3600)
    assert own.borrowed and own.expires_at.seconds <= made.expires_at.seconds
    soon = datetime.now(UTC) + timedelta(seconds=30)
    query(profile, "update authentication.key set expires_at = %s, ends_at = %s where id = %s", soon, soon, made.id)
    with pytest.raises(Forbidden, match="the caller's own key ends within a minute"):
        await make(host, borrower)
    with pytest.raises(Forbidden, match="the caller's own key ends within a minute"):
        await rotate(host, own.id, borrower)
    # An admin who rotates it gives it another day, and no more.
    again = await rotate(host, own.id)
    assert again.borrowed and again.expires_at.seconds - again.created_at.seconds <= 86400


async def test_a_platform_admin_manages_the_keys_of_every_org(host: Host, profile: Profile) -> None:
    admin = replace(OPERATOR, scopes=OPERATOR.scopes - {"org:admin"})
    client = host.client(AuthenticationClient)
    made = await make(host, admin, org="acme", desk="research", requests_per_minute=7)
    with acting_for(admin):
        assert not (await client.list_keys(ListKeysRequest())).keys
        with pytest.raises(NotFound):
            await client.get_key(GetKeyRequest(id=made.id))
        assert [key.id for key in (await client.list_keys(ListKeysRequest(org="acme"))).keys] == [made.id]
        assert await client.get_key(GetKeyRequest(id=made.id, org="acme")) == made
    new = await rotate(host, made.id, admin, org="acme", overlap_seconds=60)
    assert (new.org, new.desk, new.requests_per_minute) == ("acme", "research", 7)
    with acting_for(admin):
        gone = await client.revoke_key(RevokeKeyRequest(id=new.id, org="acme"))
        assert gone.HasField("revoked_at")
        assert gone == await client.revoke_key(RevokeKeyRequest(id=new.id, org="acme"))
    details = records(profile, "key.revoke")[0]["details"]
    assert (details["org"], details["desk"], details["before"]["revoked_at"]) == ("acme", "research", None)
    assert details["after"]["revoked_at"]
    before, after = (records(profile, "key.rotate")[0]["details"][side] for side in ("before", "after"))
    assert (before["successor"], after["successor"]) == ("", new.id) and before["ends_at"] > after["ends_at"]
    for ask in (
        lambda: client.list_keys(ListKeysRequest(org="acme")),
        lambda: client.get_key(GetKeyRequest(id=made.id, org="acme")),
        lambda: client.revoke_key(RevokeKeyRequest(id=made.id, org="acme")),
        lambda: client.rotate_key(RotateKeyRequest(id=made.id, org="acme")),
    ):
        with acting_for(replace(admin, scopes=admin.scopes - {"platform:admin"})), pytest.raises(Forbidden):
            await ask()


async def test_a_rotation_and_the_end_of_its_signing_key_do_not_wait_for_each_other(
    alone: Host, profile: Profile
) -> None:
    old = await make(alone)
    with psycopg.connect(profile.postgres) as held:
        held.execute("select 1 from authentication.desk where org = 'acme' and name = 'research' for update")
        rotating = asyncio.create_task(rotate(alone, old.id, overlap_seconds=60))
        await waiting(profile, 1)
        with acting_for(BOSS):
            wish = RetireSigningKeyRequest(kid=old.signed_with)
            retiring = asyncio.create_task(alone.client(AuthenticationClient).retire_signing_key(wish))
        await waiting(profile, 2)
    new, retired = await rotating, await retiring
    assert retired.revoked_keys == 2
    (record,) = records(profile, "signing_key.retire")
    assert record["details"]["revoked"] == sorted([old.id, new.id])


async def test_a_rotation_and_a_narrower_desk_do_not_wait_for_each_other(alone: Host, profile: Profile) -> None:
    first, second = await make(alone), await make(alone)
    with psycopg.connect(profile.postgres) as held:
        held.execute("select 1 from authentication.key where id = %s for update", (first.id,))
        with acting_for(BOSS):
            wish = PutDeskRequest(name="research", scopes=["models:invoke"], revoke_wider=True)
            narrowing = asyncio.create_task(alone.client(AuthenticationClient).put_desk(wish))
        await waiting(profile, 1)
        rotating = asyncio.create_task(rotate(alone, second.id))
        await waiting(profile, 2)
    assert list((await narrowing).revoked_keys) == [first.id, second.id]
    with pytest.raises(Forbidden, match="cannot have the scope 'models:read'"):
        await rotating
