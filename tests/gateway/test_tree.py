"""Orgs, desks and keys: each within the one above, nothing made by itself, every change on record."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from drw.api.gateway.v1.authentication_pb2 import (
    CreateKeyRequest,
    DeleteDeskRequest,
    DeleteOrgRequest,
    GetDeskRequest,
    GetKeyRequest,
    GetMeRequest,
    GetOrgRequest,
    ListDesksRequest,
    ListOrgsRequest,
    Me,
    PutDeskRequest,
    PutOrgRequest,
)
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.kernel.errors import Conflict, Forbidden, InvalidRequest, NotFound
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from drw.local.first_key import OPERATOR
from support.hosting import hosted
from support.locks import waiting

SERVICES = ["authentication", "rate_limiting"]
ADMIN = replace(OPERATOR, org="acme", key="key_admin", scopes=OPERATOR.scopes - {"platform:admin"})
ALL = sorted(OPERATOR.scopes)


@pytest.fixture(params=["together", "strict", "apart"])
async def client(profile: Profile, request: pytest.FixtureRequest) -> AsyncIterator[AuthenticationClient]:
    async with hosted(profile, SERVICES, request.param) as host:
        yield host.client(AuthenticationClient)


@pytest.fixture
async def alone(profile: Profile) -> AsyncIterator[AuthenticationClient]:
    async with hosted(profile, SERVICES) as host:
        yield host.client(AuthenticationClient)


async def desk(client, name="trading", who=ADMIN, **fields):
    with acting_for(who):
        return await client.put_desk(PutDeskRequest(name=name, **{"scopes": ["models:read"], **fields}))


async def key(client, who=ADMIN, **fields):
    with acting_for(who):
        made = await client.create_key(CreateKeyRequest(name="n", **{"scopes": ["models:read"], **fields}))
    return made.key.id


async def revoked(client, name, who=ADMIN) -> bool:
    with acting_for(who):
        return (await client.get_key(GetKeyRequest(id=name))).HasField("revoked_at")


def records(dsn: str, action: str) -> list[dict]:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("select record from audit.inbox order by id").fetchall()
    return [record for record in (json.loads(row[0]) for row in rows) if record["action"] == action]


async def test_desks_are_within_their_org_and_keys_within_their_desk(client: AuthenticationClient) -> None:
    with acting_for(OPERATOR):
        await client.put_org(PutOrgRequest(name="narrow", scopes=["models:read", "keys:write"], walls=["rates"]))
    with pytest.raises(Forbidden, match="a desk of 'narrow' cannot have the scope 'models:invoke'; .*: keys:write, "):
        await desk(client, who=OPERATOR, org="narrow", scopes=["models:invoke"])
    with pytest.raises(Forbidden, match="cannot have the wall 'm-and-a'; it can have: rates"):
        await desk(client, who=OPERATOR, org="narrow", walls=["m-and-a"])
    await desk(client, who=OPERATOR, org="narrow", walls=["rates"])
    with pytest.raises(Forbidden, match="a key of the desk 'trading' cannot have the scope 'models:invoke'"):
        await key(client, OPERATOR, org="narrow", desk="trading", scopes=["models:invoke"])
    with pytest.raises(Forbidden, match="a key of the desk 'trading' cannot have the wall 'm-and-a'"):
        await key(client, OPERATOR, org="narrow", desk="trading", walls=["m-and-a"])
    assert await key(client, OPERATOR, org="narrow", desk="trading", walls=["rates"])


async def test_nothing_is_made_by_itself(alone: AuthenticationClient) -> None:
    for fields, said in [
        ({"desk": "ghosts"}, "the org 'acme' has no desk 'ghosts'"),
        ({"org": "ghosts", "desk": "research"}, "the org 'ghosts' has no desk 'research'"),
    ]:
        with pytest.raises(NotFound, match=said):
            await key(alone, replace(OPERATOR, org="acme"), **fields)
    with pytest.raises(NotFound, match="there is no org 'ghosts'; .*`drw orgs put` makes one"):
        await desk(alone, who=OPERATOR, org="ghosts")
    with acting_for(OPERATOR):
        assert [org.name for org in (await alone.list_orgs(ListOrgsRequest())).orgs] == ["acme", "local"]
        for ask in (alone.get_org(GetOrgRequest(name="x")), alone.get_desk(GetDeskRequest(name="x"))):
            with pytest.raises(NotFound):
                await ask


async def test_another_org_is_nobodys_but_the_platforms_admins(client: AuthenticationClient) -> None:
    for ask in (
        lambda: client.put_desk(PutDeskRequest(org="local", name="d", scopes=["models:read"])),
        lambda: client.list_desks(ListDesksRequest(org="local")),
        lambda: client.get_desk(GetDeskRequest(org="local", name="research")),
        lambda: client.delete_desk(DeleteDeskRequest(org="local", name="research")),
        lambda: client.create_key(CreateKeyRequest(org="local", desk="research", name="n", scopes=["models:read"])),
        lambda: client.get_desk(GetDeskRequest(org="there-is-none", name="research")),
    ):
        with acting_for(ADMIN), pytest.raises(Forbidden, match="lacks the scope 'platform:admin'"):
            await ask()


async def test_only_callers_inside_a_wall_can_grant_it(client: AuthenticationClient, caller: Principal) -> None:
    with pytest.raises(Forbidden, match="is outside the wall 'rates', so it cannot grant it"):
        await key(client, caller, walls=["rates"])
    assert await key(client, replace(caller, walls=frozenset({"rates"})), walls=["rates"])
    made = await key(client, ADMIN, walls=["rates", "m-and-a", "rates"])
    with acting_for(ADMIN):
        assert list((await client.get_key(GetKeyRequest(id=made))).walls) == ["m-and-a", "rates"]
    assert await key(client, caller)


async def test_a_narrower_desk_leaves_no_wider_key_good(client: AuthenticationClient, profile: Profile) -> None:
    await desk(client, scopes=["models:read", "models:invoke"], walls=["rates"])
    plain, wide = [await key(client, desk="trading", scopes=s) for s in (["models:read"], ["models:invoke"])]
    walled = await key(client, desk="trading", walls=["rates"])
    with pytest.raises(Conflict) as caught:
        await desk(client, walls=["rates"])
    assert f"'trading' cannot hold less than its keys {wide!r}: " in caught.value.message
    assert "revoke_wider" in caught.value.message and not await revoked(client, wide)
    narrowed = await desk(client, revoke_wider=True)
    assert (list(narrowed.desk.scopes), list(narrowed.desk.walls)) == (["models:read"], [])
    assert set(narrowed.revoked_keys) == {wide, walled}
    assert [await revoked(client, one) for one in (plain, wide, walled)] == [False, True, True]
    last = records(profile.postgres, "desk.put")[-1]
    assert (last["actor"], last["org"], last["resource"]) == ("key_admin", "acme", "org/acme/desk/trading")
    assert last["details"]["before"]["scopes"] == ["models:invoke", "models:read"]
    assert last["details"]["after"]["scopes"] == ["models:read"]
    told = {record["resource"] for record in records(profile.postgres, "key.revoke")}
    assert told == {f"key/{wide}", f"key/{walled}"}


async def test_narrowing_an_org_narrows_its_desks_and_keys(client: AuthenticationClient, profile: Profile) -> None:
    await desk(client, scopes=["models:read", "models:invoke"])
    kept, wide = [await key(client, desk="trading", scopes=s) for s in (["models:read"], ["models:invoke"])]
    narrow: dict[str, Any] = {"name": "acme", "scopes": ["models:read", "keys:read"]}
    with acting_for(OPERATOR), pytest.raises(Conflict, match="less than its desks 'research', 'trading'"):
        await client.put_org(PutOrgRequest(**narrow))
    with acting_for(OPERATOR):
        answer = await client.put_org(PutOrgRequest(**narrow, revoke_wider=True))
        found = await client.get_desk(GetDeskRequest(org="acme", name="trading"))
    assert list(answer.narrowed_desks) == ["research", "trading"]
    assert list(answer.revoked_keys) == [wide]
    assert list(found.scopes) == ["models:read"]
    assert [await revoked(client, one) for one in (kept, wide)] == [False, True]
    last = records(profile.postgres, "org.put")[-1]
    assert last["details"]["before"]["scopes"] == ALL
    assert last["details"]["after"]["scopes"] == ["keys:read", "models:read"]


async def test_a_desk_is_deleted_after_its_keys_and_an_org_after_its_desks(
    alone: AuthenticationClient, profile: Profile
) -> None:
    await desk(alone)
    made = await key(alone, desk="trading")
    with acting_for(OPERATOR), pytest.raises(Conflict, match="still has 'the desk research', 'the desk trading'"):
        await alone.delete_org(DeleteOrgRequest(name="acme"))
    with acting_for(ADMIN):
        with pytest.raises(Conflict, match=f"still has the keys {made!r}"):
            await alone.delete_desk(DeleteDeskRequest(name="trading"))
        gone = await alone.delete_desk(DeleteDeskRequest(name="trading", revoke_keys=True))
        assert list(gone.revoked_keys) == [made]
        with pytest.raises(NotFound):
            await alone.delete_desk(DeleteDeskRequest(name="trading"))
    assert await revoked(alone, made)
    with pytest.raises(NotFound, match="no desk 'trading'"):
        await key(alone, desk="trading")
    with acting_for(OPERATOR):
        await alone.delete_desk(DeleteDeskRequest(org="acme", name="research"))
        await alone.delete_org(DeleteOrgRequest(name="acme"))
    assert records(profile.postgres, "org.delete")[0]["details"]["after"] is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "Not A Desk"}, "name is 'Not A Desk'; it must be lower-case letters"),
        ({"name": "x" * 64}, "at most 63"),
        ({"name": ""}, "name is missing"),
        ({"scopes": ["models:fly"]}, "'models:fly' is not a scope; there are: models:invoke"),
        ({"walls": ["a wall"]}, "walls[0] is 'a wall'"),
        ({"walls": [f"w{n}" for n in range(101)]}, "walls has 101 items; it can have at most 100"),
        ({"title": "a\nb"}, "up to 100 printable characters"),
    ],
)
async def test_an_invalid_org_or_desk_is_rejected_with_the_valid_form(
    alone: AuthenticationClient, fields: Any, said: str
) -> None:
    with acting_for(OPERATOR), pytest.raises(InvalidRequest) as caught:
        await alone.put_org(PutOrgRequest(**{"name": "n", "scopes": ["models:read"], **fields}))
    assert said in caught.value.message
    with acting_for(ADMIN), pytest.raises(InvalidRequest) as caught:
        await alone.put_desk(PutDeskRequest(**{"name": "n", "scopes": ["models:read"], **fields}))
    assert said in caught.value.message


async def test_desks_come_in_pages(alone: AuthenticationClient) -> None:
    for number in range(4):
        await desk(alone, f"d{number}")
    found, token = [], ""
    with acting_for(ADMIN):
        while True:
            page = await alone.list_desks(ListDesksRequest(page_size=2, page_token=token))
            found.append([one.name for one in page.desks])
            if not (token := page.next_page_token):
                break
    assert found == [["d0", "d1"], ["d2", "d3"], ["research"]]


async def test_a_key_that_is_made_just_before_its_desk_is_narrowed_is_revoked_with_it(
    alone: AuthenticationClient, profile: Profile
) -> None:
    await desk(alone, scopes=["models:read", "models:invoke"])
    with psycopg.connect(profile.postgres) as held:
        held.execute("lock table audit.inbox in share mode")  # the key is there, and not yet on record
        making = asyncio.create_task(key(alone, desk="trading", scopes=["models:invoke"]))
        await waiting(profile, 1)
        narrowing = asyncio.create_task(desk(alone, revoke_wider=True))
        await waiting(profile, 2)
    made = await making
    assert list((await narrowing).revoked_keys) == [made] and await revoked(alone, made)


async def test_a_key_that_is_made_just_after_its_desk_is_narrowed_is_refused(
    alone: AuthenticationClient, profile: Profile
) -> None:
    await desk(alone, scopes=["models:read", "models:invoke"])
    there = await key(alone, desk="trading", scopes=["models:invoke"])
    with psycopg.connect(profile.postgres) as held:
        held.execute("select 1 from authentication.key where id = %s for update", (there,))
        narrowing = asyncio.create_task(desk(alone, revoke_wider=True))
        await waiting(profile, 1)
        making = asyncio.create_task(key(alone, desk="trading", scopes=["models:invoke"]))
        await waiting(profile, 2)
    assert list((await narrowing).revoked_keys) == [there]
    with pytest.raises(Forbidden, match="cannot have the scope 'models:invoke'"):
        await making


@pytest.mark.parametrize(
    ("key_id", "way"),
    [("operator", Me.OPERATOR), ("oidc:okta:u1", Me.ISSUER), ("cert:pricing", Me.CERTIFICATE), ("key_0", Me.KEY)],
)
async def test_a_caller_sees_itself(alone: AuthenticationClient, key_id: str, way: Any) -> None:
    who = Principal("acme", "research", key_id, frozenset({"models:read"}), frozenset({"rates"}))
    with acting_for(who):
        found = await alone.get_me(GetMeRequest())
    assert (found.org, found.desk, found.key, found.identified_by) == ("acme", "research", key_id, way)
    assert (list(found.scopes), list(found.walls)) == (["models:read"], ["rates"])


async def test_a_key_sees_its_end(alone: AuthenticationClient) -> None:
    made = await key(alone)
    with acting_for(replace(ADMIN, key=made)):
        found = await alone.get_me(GetMeRequest())
        assert found.expires_at == (await alone.get_key(GetKeyRequest(id=made))).expires_at
