"""Orgs and desks: bounds of permissions, narrowing, deletion and audit records."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

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
    PutDeskResponse,
    PutOrgRequest,
)
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.kernel.errors import Conflict, Forbidden, InvalidRequest, NotFound
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.settings import Profile
from drw.local.first_key import OPERATOR
from support.database.audit_records import audit_records
from support.database.locks import until_locks_wait
from support.hosting import hosted
from support.json_types import Json, JsonObject

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


async def put_desk(
    client: AuthenticationClient, name: str = "trading", principal: Principal = ADMIN, **fields: Json
) -> PutDeskResponse:
    with acting_for(principal):
        return await client.put_desk(PutDeskRequest(name=name, **{"scopes": ["models:read"], **fields}))


async def create_key(client: AuthenticationClient, principal: Principal = ADMIN, **fields: Json) -> str:
    with acting_for(principal):
        created = await client.create_key(CreateKeyRequest(name="n", **{"scopes": ["models:read"], **fields}))
    return created.key.id


async def is_revoked(client: AuthenticationClient, name: str, principal: Principal = ADMIN) -> bool:
    with acting_for(principal):
        return (await client.get_key(GetKeyRequest(id=name))).HasField("revoked_at")


async def test_desks_are_within_their_org_and_keys_within_their_desk(client: AuthenticationClient) -> None:
    with acting_for(OPERATOR):
        await client.put_org(PutOrgRequest(name="narrow", scopes=["models:read", "keys:write"], walls=["rates"]))
    with pytest.raises(Forbidden, match="a desk of 'narrow' cannot have the scope 'models:invoke'; .*: keys:write, "):
        await put_desk(client, principal=OPERATOR, org="narrow", scopes=["models:invoke"])
    with pytest.raises(Forbidden, match="cannot have the wall 'm-and-a'; it can have: rates"):
        await put_desk(client, principal=OPERATOR, org="narrow", walls=["m-and-a"])
    await put_desk(client, principal=OPERATOR, org="narrow", walls=["rates"])
    with pytest.raises(Forbidden, match="a key of the desk 'trading' cannot have the scope 'models:invoke'"):
        await create_key(client, OPERATOR, org="narrow", desk="trading", scopes=["models:invoke"])
    with pytest.raises(Forbidden, match="a key of the desk 'trading' cannot have the wall 'm-and-a'"):
        await create_key(client, OPERATOR, org="narrow", desk="trading", walls=["m-and-a"])
    assert await create_key(client, OPERATOR, org="narrow", desk="trading", walls=["rates"])


async def test_orgs_and_desks_are_not_created_implicitly(alone: AuthenticationClient) -> None:
    for fields, message in [
        ({"desk": "ghosts"}, "the org 'acme' has no desk 'ghosts'"),
        ({"org": "ghosts", "desk": "research"}, "the org 'ghosts' has no desk 'research'"),
    ]:
        with pytest.raises(NotFound, match=message):
            await create_key(alone, replace(OPERATOR, org="acme"), **fields)
    with pytest.raises(NotFound, match="there is no org 'ghosts'; .*`drw orgs put` creates one"):
        await put_desk(alone, principal=OPERATOR, org="ghosts")
    with acting_for(OPERATOR):
        assert [org.name for org in (await alone.list_orgs(ListOrgsRequest())).orgs] == ["acme", "local"]
        for call in (alone.get_org(GetOrgRequest(name="x")), alone.get_desk(GetDeskRequest(name="x"))):
            with pytest.raises(NotFound):
                await call


async def test_other_orgs_require_platform_admin(client: AuthenticationClient) -> None:
    for call in (
        lambda: client.put_desk(PutDeskRequest(org="local", name="d", scopes=["models:read"])),
        lambda: client.list_desks(ListDesksRequest(org="local")),
        lambda: client.get_desk(GetDeskRequest(org="local", name="research")),
        lambda: client.delete_desk(DeleteDeskRequest(org="local", name="research")),
        lambda: client.create_key(CreateKeyRequest(org="local", desk="research", name="n", scopes=["models:read"])),
        lambda: client.get_desk(GetDeskRequest(org="there-is-none", name="research")),
    ):
        with acting_for(ADMIN), pytest.raises(Forbidden, match="lacks the scope 'platform:admin'"):
            await call()


async def test_only_callers_inside_a_wall_can_grant_it(client: AuthenticationClient, caller: Principal) -> None:
    with pytest.raises(Forbidden, match="is outside the wall 'rates', so it cannot grant it"):
        await create_key(client, caller, walls=["rates"])
    assert await create_key(client, replace(caller, walls=frozenset({"rates"})), walls=["rates"])
    walled = await create_key(client, ADMIN, walls=["rates", "m-and-a", "rates"])
    with acting_for(ADMIN):
        assert list((await client.get_key(GetKeyRequest(id=walled))).walls) == ["m-and-a", "rates"]
    assert await create_key(client, caller)


async def test_narrowing_a_desk_revokes_keys_with_more_permissions(
    client: AuthenticationClient, profile: Profile
) -> None:
    await put_desk(client, scopes=["models:read", "models:invoke"], walls=["rates"])
    narrow, wide = [await create_key(client, desk="trading", scopes=s) for s in (["models:read"], ["models:invoke"])]
    walled = await create_key(client, desk="trading", walls=["rates"])
    with pytest.raises(Conflict) as caught:
        await put_desk(client, walls=["rates"])
    assert f"'trading' cannot have fewer permissions than its keys {wide!r}: " in caught.value.message
    assert "revoke_wider" in caught.value.message and not await is_revoked(client, wide)
    narrowed = await put_desk(client, revoke_wider=True)
    assert (list(narrowed.desk.scopes), list(narrowed.desk.walls)) == (["models:read"], [])
    assert set(narrowed.revoked_keys) == {wide, walled}
    assert [await is_revoked(client, one) for one in (narrow, wide, walled)] == [False, True, True]
    last = audit_records(profile, "desk.put")[-1]
    assert (last["actor"], last["org"], last["resource"]) == ("key_admin", "acme", "org/acme/desk/trading")
    assert last["details"]["before"]["scopes"] == ["models:invoke", "models:read"]
    assert last["details"]["after"]["scopes"] == ["models:read"]
    revoked_resources = {record["resource"] for record in audit_records(profile, "key.revoke")}
    assert revoked_resources == {f"key/{wide}", f"key/{walled}"}


async def test_narrowing_an_org_narrows_its_desks_and_keys(client: AuthenticationClient, profile: Profile) -> None:
    await put_desk(client, scopes=["models:read", "models:invoke"])
    narrow_key, wide = [
        await create_key(client, desk="trading", scopes=s) for s in (["models:read"], ["models:invoke"])
    ]
    fields: JsonObject = {"name": "acme", "scopes": ["models:read", "keys:read"]}
    with acting_for(OPERATOR), pytest.raises(Conflict, match="fewer permissions than its desks 'research', 'trading'"):
        await client.put_org(PutOrgRequest(**fields))
    with acting_for(OPERATOR):
        response = await client.put_org(PutOrgRequest(**fields, revoke_wider=True))
        desk = await client.get_desk(GetDeskRequest(org="acme", name="trading"))
    assert list(response.narrowed_desks) == ["research", "trading"]
    assert list(response.revoked_keys) == [wide]
    assert list(desk.scopes) == ["models:read"]
    assert [await is_revoked(client, one) for one in (narrow_key, wide)] == [False, True]
    last = audit_records(profile, "org.put")[-1]
    assert last["details"]["before"]["scopes"] == ALL
    assert last["details"]["after"]["scopes"] == ["keys:read", "models:read"]


async def test_a_desk_is_deleted_after_its_keys_and_an_org_after_its_desks(
    alone: AuthenticationClient, profile: Profile
) -> None:
    await put_desk(alone)
    created = await create_key(alone, desk="trading")
    with acting_for(OPERATOR), pytest.raises(Conflict, match="still has 'the desk research', 'the desk trading'"):
        await alone.delete_org(DeleteOrgRequest(name="acme"))
    with acting_for(ADMIN):
        with pytest.raises(Conflict, match=f"still has the keys {created!r}"):
            await alone.delete_desk(DeleteDeskRequest(name="trading"))
        deleted = await alone.delete_desk(DeleteDeskRequest(name="trading", revoke_keys=True))
        assert list(deleted.revoked_keys) == [created]
        with pytest.raises(NotFound):
            await alone.delete_desk(DeleteDeskRequest(name="trading"))
    assert await is_revoked(alone, created)
    with pytest.raises(NotFound, match="no desk 'trading'"):
        await create_key(alone, desk="trading")
    with acting_for(OPERATOR):
        await alone.delete_desk(DeleteDeskRequest(org="acme", name="research"))
        await alone.delete_org(DeleteOrgRequest(name="acme"))
    assert audit_records(profile, "org.delete")[0]["details"]["after"] is None


@pytest.mark.parametrize(
    ("fields", "message"),
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
    alone: AuthenticationClient, fields: JsonObject, message: str
) -> None:
    with acting_for(OPERATOR), pytest.raises(InvalidRequest) as caught:
        await alone.put_org(PutOrgRequest(**{"name": "n", "scopes": ["models:read"], **fields}))
    assert message in caught.value.message
    with acting_for(ADMIN), pytest.raises(InvalidRequest) as caught:
        await alone.put_desk(PutDeskRequest(**{"name": "n", "scopes": ["models:read"], **fields}))
    assert message in caught.value.message


async def test_desks_are_listed_in_pages(alone: AuthenticationClient) -> None:
    for number in range(4):
        await put_desk(alone, f"d{number}")
    pages, token = [], ""
    with acting_for(ADMIN):
        while True:
            page = await alone.list_desks(ListDesksRequest(page_size=2, page_token=token))
            pages.append([desk.name for desk in page.desks])
            if not (token := page.next_page_token):
                break
    assert pages == [["d0", "d1"], ["d2", "d3"], ["research"]]


async def test_a_key_created_just_before_its_desk_is_narrowed_is_revoked(
    alone: AuthenticationClient, profile: Profile
) -> None:
    await put_desk(alone, scopes=["models:read", "models:invoke"])
    with psycopg.connect(profile.postgres) as connection:
        connection.execute("lock table audit.inbox in share mode")  # blocks the transaction that creates the key
        making = asyncio.create_task(create_key(alone, desk="trading", scopes=["models:invoke"]))
        await until_locks_wait(profile, 1)
        narrowing = asyncio.create_task(put_desk(alone, revoke_wider=True))
        await until_locks_wait(profile, 2)
    created = await making
    assert list((await narrowing).revoked_keys) == [created] and await is_revoked(alone, created)


async def test_a_key_created_just_after_its_desk_is_narrowed_is_rejected(
    alone: AuthenticationClient, profile: Profile
) -> None:
    await put_desk(alone, scopes=["models:read", "models:invoke"])
    existing = await create_key(alone, desk="trading", scopes=["models:invoke"])
    with psycopg.connect(profile.postgres) as connection:
        connection.execute("select 1 from authentication.key where id = %s for update", (existing,))
        narrowing = asyncio.create_task(put_desk(alone, revoke_wider=True))
        await until_locks_wait(profile, 1)
        making = asyncio.create_task(create_key(alone, desk="trading", scopes=["models:invoke"]))
        await until_locks_wait(profile, 2)
    assert list((await narrowing).revoked_keys) == [existing]
    with pytest.raises(Forbidden, match="cannot have the scope 'models:invoke'"):
        await making


@pytest.mark.parametrize(
    ("key_id", "kind"),
    [("operator", Me.OPERATOR), ("oidc:okta:u1", Me.ISSUER), ("cert:pricing", Me.CERTIFICATE), ("key_0", Me.KEY)],
)
async def test_me_returns_the_caller(alone: AuthenticationClient, key_id: str, kind: int) -> None:
    principal = Principal("acme", "research", key_id, frozenset({"models:read"}), frozenset({"rates"}))
    with acting_for(principal):
        me = await alone.get_me(GetMeRequest())
    assert (me.org, me.desk, me.key, me.identified_by) == ("acme", "research", key_id, kind)
    assert (list(me.scopes), list(me.walls)) == (["models:read"], ["rates"])


async def test_me_contains_the_end_of_the_key(alone: AuthenticationClient) -> None:
    created = await create_key(alone)
    with acting_for(replace(ADMIN, key=created)):
        me = await alone.get_me(GetMeRequest())
        assert me.expires_at == (await alone.get_key(GetKeyRequest(id=created))).expires_at
