"""Keys created or rotated with other keys: inherited limits, budgets, spending and lifetimes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from drw.api.gateway.v1.authentication_pb2 import (
    CreateKeyRequest,
    GetKeyRequest,
    Key,
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
from drw.billing.ledger.carryover import amounts_by_period
from drw.billing.subjects import period_start
from drw.gateway.authentication.keys.store import KeyStore
from drw.kernel.errors import Conflict, Forbidden, InvalidRequest, NotFound
from drw.kernel.rpc.context import SCOPES, Principal, acting_for
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile
from drw.local.first_key import OPERATOR
from support.database.audit_records import audit_records
from support.database.locks import until_locks_wait
from support.database.sql import execute
from support.gateway.keys import register_identity
from support.gateway.money import counted_budgets
from support.hosting import hosted
from support.json_types import Json, JsonObject

SERVICES = ["authentication", "rate_limiting"]
ADMIN = Principal("acme", "research", "key_boss", frozenset(SCOPES))
MEMBER = replace(ADMIN, scopes=frozenset({"keys:write", "keys:read", "models:read"}))


@pytest.fixture(params=["together", "strict", "apart"])
async def host(profile: Profile, request: pytest.FixtureRequest) -> AsyncIterator[Host]:
    async with hosted(profile, SERVICES, request.param) as running:
        yield running


@pytest.fixture
async def alone(profile: Profile) -> AsyncIterator[Host]:
    async with hosted(profile, SERVICES) as running:
        yield running


async def create(host: Host, principal: Principal = ADMIN, **fields: Json) -> Key:
    with acting_for(principal):
        request = CreateKeyRequest(name="n", **{"scopes": ["models:read"], **fields})
        return (await host.client(AuthenticationClient).create_key(request)).key


async def rotate(host: Host, key: str, principal: Principal = ADMIN, **fields: Json) -> Key:
    with acting_for(principal):
        return (await host.client(AuthenticationClient).rotate_key(RotateKeyRequest(id=key, **fields))).key


async def limits(host: Host) -> dict[str, Limit]:
    with acting_for(ADMIN):
        listed = (await host.client(RateLimitingClient).list_limits(ListLimitsRequest())).limits
    return {entry.key: entry for entry in listed}


async def budgets(host: Host) -> dict[tuple[str, str], tuple[str, str]]:
    with acting_for(ADMIN):
        listed = await counted_budgets(host.client(RateLimitingClient))
    return {(entry.name, Budget.Period.Name(entry.period)): (entry.amount, entry.spent) for entry in listed}


async def spend(host: Host, key: str, tokens: int, at: datetime | None = None, id: str = "r") -> None:
    fields: JsonObject = {
        "org": "acme",
        "desk": "research",
        "key": key,
        "model": "m",
        "status": 200,
    }
    usage = Usage(request_id=f"{id}-{key}", completion_tokens=tokens, counted=True, **fields)
    usage.at.FromDatetime(at or datetime.now(UTC))
    await host.client(RateLimitingClient).report_usage(ReportUsageRequest(data_plane="d", usages=[usage]))


async def test_a_successor_has_the_limits_budgets_and_spending_of_its_predecessor(host: Host) -> None:
    old = await create(host, requests_per_minute=600)
    limiting = host.client(RateLimitingClient)
    with acting_for(ADMIN):
        lowered: JsonObject = {"requests_per_minute": 60, "tokens_per_minute": 1000, "concurrent": 3}
        await limiting.set_limit(Limit(key=old.id, algorithm=Limit.SLIDING, when_lost=Limit.FAIL_CLOSED, **lowered))
        for period, amount in ((Budget.DAY, "500"), (Budget.TOTAL, "9000")):
            await limiting.set_budget(Budget(name=old.id, period=period, unit=Budget.TOKENS, amount=amount))
    await budgets(host)  # the counters are open: spending counts immediately
    await spend(host, old.id, 123)
    new = await rotate(host, old.id, overlap_seconds=60)
    assert new.requests_per_minute == 60
    listed = await limits(host)
    before, after = listed[old.id], listed[new.id]
    assert after.expires_at == new.expires_at
    assert (before.counted_as, after.counted_as) == ("", old.id)
    after.key, before.key, after.counted_as = "", "", ""
    before.expires_at.CopyFrom(after.expires_at)
    assert before == after
    amounts = await budgets(host)
    for key in (old.id, new.id):
        assert amounts[key, "DAY"] == ("500", "123") and amounts[key, "TOTAL"] == ("9000", "123")
    # Later spending counts for each key alone; the next successor has the sum.
    await spend(host, new.id, 7)
    amounts = await budgets(host)
    assert (amounts[old.id, "TOTAL"][1], amounts[new.id, "TOTAL"][1]) == ("123", "130")
    third = await rotate(host, new.id)
    assert (await budgets(host))[third.id, "TOTAL"] == ("9000", "130")


async def test_carried_over_spending_survives_a_loss_of_the_counters(profile: Profile) -> None:
    async with hosted(profile, SERVICES) as host:
        old = await create(host)
        with acting_for(ADMIN):
            request = Budget(name=old.id, period=Budget.MONTH, unit=Budget.TOKENS, amount="100")
            await host.client(RateLimitingClient).set_budget(request)
        await budgets(host)
        await spend(host, old.id, 99)
        new = await rotate(host, old.id)
        execute(profile, "update metering.book set id = 'another'")  # forces a rebuild of the counters from the ledger
    async with hosted(profile, SERVICES) as host:
        assert (await budgets(host))[new.id, "MONTH"][1] == "99"
        await spend(host, new.id, 1)
        with acting_for(ADMIN):
            listed = await host.client(RateLimitingClient).list_limits(ListLimitsRequest())
        assert {(block.name, block.reason) for block in listed.blocks} == {(new.id, Block.MONEY)}


def test_carried_over_spending_keeps_its_period() -> None:
    now = datetime(2026, 11, 25, 12, tzinfo=UTC)
    spent = {"tn": 9, "tt": 90, "mn": 5, "mt": 50, "dn": 2, "dt": 20}
    day, month = period_start("day", now), period_start("month", now)
    assert list(amounts_by_period(spent, now)) == [
        (month - timedelta(milliseconds=1), 4, 40),
        (month, 3, 30),
        (day, 2, 20),
    ]
    first = datetime(2026, 11, 1, 12, tzinfo=UTC)
    spent |= {"mn": 2, "mt": 20}
    assert [at for at, _, _ in amounts_by_period(spent, first)] == [month - timedelta(milliseconds=1), month]


async def test_a_caller_cannot_grant_more_requests_per_minute_than_it_has(host: Host) -> None:
    caller_key = await create(host, requests_per_minute=60, scopes=sorted(MEMBER.scopes))
    caller = replace(MEMBER, key=caller_key.id)
    with pytest.raises(
        Forbidden, match=f"{caller_key.id!r} has 60 requests a minute; a key with 61 needs 'limits:write'"
    ):
        await create(host, caller, requests_per_minute=61)
    assert (await create(host, caller, requests_per_minute=59)).requests_per_minute == 59
    created = await create(host, caller)
    assert created.requests_per_minute == (await limits(host))[created.id].requests_per_minute == 60
    assert (await rotate(host, caller_key.id, caller, overlap_seconds=60)).requests_per_minute == 60
    other = await create(host)
    with pytest.raises(Forbidden, match="a key with 600 needs 'limits:write'"):
        await rotate(host, other.id, caller)
    # A caller without a limit of its own has the default.
    with pytest.raises(Forbidden, match="has 600 requests a minute"):
        await create(host, MEMBER, requests_per_minute=601)
    assert (await create(host, MEMBER)).requests_per_minute == 0
    assert (await create(host, replace(caller, scopes=caller.scopes | {"limits:write"}), requests_per_minute=61)).id


async def test_a_failed_rotation_leaves_no_limits(
    host: Host, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await create(host, requests_per_minute=7)
    first = await rotate(host, old.id, overlap_seconds=60)
    expected, recorded = set(await limits(host)), len(audit_records(profile, "limit.set"))
    with pytest.raises(Conflict, match="has a successor already"):
        await rotate(host, old.id)
    assert set(await limits(host)) == expected and len(audit_records(profile, "limit.set")) == recorded

    async def not_rotated(*args: object) -> None:
        return None

    monkeypatch.setattr(KeyStore, "set_successor", not_rotated)  # as if another rotation was faster
    with pytest.raises(Conflict, match="has a successor already"):
        await rotate(host, first.id)
    assert set(await limits(host)) == expected


async def test_a_key_of_a_desk_that_was_narrowed_meanwhile_leaves_no_limit(alone: Host, profile: Profile) -> None:
    """The desk is narrowed after the limit is set and before the key is stored."""
    with acting_for(ADMIN):
        desk = PutDeskRequest(name="late", scopes=["models:read", "models:invoke"])
        await alone.client(AuthenticationClient).put_desk(desk)
    with psycopg.connect(profile.postgres) as connection:
        connection.execute("update authentication.desk set scopes = '{models:invoke}' where name = 'late'")
        making = asyncio.create_task(create(alone, desk="late", requests_per_minute=7))
        await until_locks_wait(profile, 1)
        assert len(await limits(alone)) == 1
        connection.commit()
        with pytest.raises(Forbidden, match="cannot have the scope 'models:read'"):
            await making
    assert not await limits(alone)


async def test_the_creator_of_a_key_is_recorded(host: Host, profile: Profile) -> None:
    created = await create(host, ADMIN)
    assert (created.created_by, created.borrowed) == ("key_boss", False)
    with acting_for(ADMIN):
        (listed,) = (await host.client(AuthenticationClient).list_keys(ListKeysRequest())).keys
    assert listed == created
    details = audit_records(profile, "key.create")[0]["details"]
    assert (details["name"], details["requests_per_minute"], details["borrowed"]) == ("n", 0, False)


@pytest.mark.parametrize("principal", ["oidc:okta:u1", "cert:pricing"])
async def test_a_borrowed_key_does_not_outlive_the_identity_of_its_creator(
    host: Host, profile: Profile, principal: str
) -> None:
    await register_identity(host, principal)
    external_caller = replace(ADMIN, key=principal)
    created = await create(host, external_caller)
    assert (created.created_by, created.borrowed) == (principal, True)
    assert created.expires_at.seconds - created.created_at.seconds == 86400
    with pytest.raises(InvalidRequest, match="it can be 60 to 86400, by default 86400: the caller's own identity is"):
        await create(host, external_caller, ttl_seconds=86401)
    # The same applies to keys that are created or rotated with such a key.
    borrower = replace(ADMIN, key=created.id)
    with pytest.raises(InvalidRequest, match="the caller's own identity is short-lived"):
        await create(host, borrower, ttl_seconds=86400 * 2)
    for derived in (await create(host, borrower), await rotate(host, (await create(host)).id, borrower)):
        assert derived.borrowed and derived.expires_at.seconds <= created.expires_at.seconds
    successor = await rotate(host, created.id, borrower, overlap_seconds=3600)
    assert successor.borrowed and successor.expires_at.seconds <= created.expires_at.seconds
    soon = datetime.now(UTC) + timedelta(seconds=30)
    execute(
        profile, "update authentication.key set expires_at = %s, ends_at = %s where id = %s", soon, soon, created.id
    )
    with pytest.raises(Forbidden, match="the caller's key expires within a minute"):
        await create(host, borrower)
    with pytest.raises(Forbidden, match="the caller's key expires within a minute"):
        await rotate(host, successor.id, borrower)
    # A rotation by an admin extends it by one day at most.
    renewed = await rotate(host, successor.id)
    assert renewed.borrowed and renewed.expires_at.seconds - renewed.created_at.seconds <= 86400


async def test_a_platform_admin_manages_the_keys_of_every_org(host: Host, profile: Profile) -> None:
    admin = replace(OPERATOR, scopes=OPERATOR.scopes - {"org:admin"})
    client = host.client(AuthenticationClient)
    created = await create(host, admin, org="acme", desk="research", requests_per_minute=7)
    with acting_for(admin):
        assert not (await client.list_keys(ListKeysRequest())).keys
        with pytest.raises(NotFound):
            await client.get_key(GetKeyRequest(id=created.id))
        assert [key.id for key in (await client.list_keys(ListKeysRequest(org="acme"))).keys] == [created.id]
        assert await client.get_key(GetKeyRequest(id=created.id, org="acme")) == created
    new = await rotate(host, created.id, admin, org="acme", overlap_seconds=60)
    assert (new.org, new.desk, new.requests_per_minute) == ("acme", "research", 7)
    with acting_for(admin):
        revoked = await client.revoke_key(RevokeKeyRequest(id=new.id, org="acme"))
        assert revoked.HasField("revoked_at")
        assert revoked == await client.revoke_key(RevokeKeyRequest(id=new.id, org="acme"))
    details = audit_records(profile, "key.revoke")[0]["details"]
    assert (details["org"], details["desk"], details["before"]["revoked_at"]) == ("acme", "research", None)
    assert details["after"]["revoked_at"]
    before, after = (audit_records(profile, "key.rotate")[0]["details"][side] for side in ("before", "after"))
    assert (before["successor"], after["successor"]) == ("", new.id) and before["ends_at"] > after["ends_at"]
    for call in (
        lambda: client.list_keys(ListKeysRequest(org="acme")),
        lambda: client.get_key(GetKeyRequest(id=created.id, org="acme")),
        lambda: client.revoke_key(RevokeKeyRequest(id=created.id, org="acme")),
        lambda: client.rotate_key(RotateKeyRequest(id=created.id, org="acme")),
    ):
        with acting_for(replace(admin, scopes=admin.scopes - {"platform:admin"})), pytest.raises(Forbidden):
            await call()


async def test_concurrent_rotation_and_retirement_of_the_signing_key_do_not_deadlock(
    alone: Host, profile: Profile
) -> None:
    old = await create(alone)
    with psycopg.connect(profile.postgres) as connection:
        connection.execute("select 1 from authentication.desk where org = 'acme' and name = 'research' for update")
        rotating = asyncio.create_task(rotate(alone, old.id, overlap_seconds=60))
        await until_locks_wait(profile, 1)
        with acting_for(ADMIN):
            request = RetireSigningKeyRequest(kid=old.signed_with)
            retiring = asyncio.create_task(alone.client(AuthenticationClient).retire_signing_key(request))
        await until_locks_wait(profile, 2)
    new, retired = await rotating, await retiring
    assert retired.revoked_keys == 2
    (record,) = audit_records(profile, "signing_key.retire")
    assert record["details"]["revoked"] == sorted([old.id, new.id])


async def test_concurrent_rotation_and_narrowing_of_the_desk_do_not_deadlock(alone: Host, profile: Profile) -> None:
    first, second = await create(alone), await create(alone)
    with psycopg.connect(profile.postgres) as connection:
        connection.execute("select 1 from authentication.key where id = %s for update", (first.id,))
        with acting_for(ADMIN):
            request = PutDeskRequest(name="research", scopes=["models:invoke"], revoke_wider=True)
            narrowing = asyncio.create_task(alone.client(AuthenticationClient).put_desk(request))
        await until_locks_wait(profile, 1)
        rotating = asyncio.create_task(rotate(alone, second.id))
        await until_locks_wait(profile, 2)
    assert list((await narrowing).revoked_keys) == [first.id, second.id]
    with pytest.raises(Forbidden, match="cannot have the scope 'models:read'"):
        await rotating
