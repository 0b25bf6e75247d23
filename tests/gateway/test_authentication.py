"""Keys: who may issue which, what is kept of them, and what a data plane hears."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import psycopg
import pytest
from psycopg import sql

from drw.api.gateway.v1.authentication_pb2 import (
    CreatedKey,
    CreateKeyRequest,
    GetKeyRequest,
    ListKeysRequest,
    PutDeskRequest,
    PutOrgRequest,
    RetireSigningKeyRequest,
    RevokeKeyRequest,
    RotateKeyRequest,
    RotateSigningKeyRequest,
    WatchCredentialsRequest,
)
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.gateway.v1.rate_limiting_pb2 import ListLimitsRequest
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.gateway.authentication.keys import issuing as keys_module
from drw.gateway.authentication.tenants import hierarchy
from drw.kernel.errors import Conflict, Forbidden, InvalidRequest, NotFound, Unauthenticated, Unavailable
from drw.kernel.rpc.context import SCOPES, Principal, acting_for
from drw.kernel.rpc.transport import Channels
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile, ServiceAddress
from support.hosting import hosted
from support.measured import measured

SERVICES = ["authentication", "rate_limiting"]
OPERATOR = Principal("local", "research", "operator", frozenset(SCOPES))
HOW = ["together", "strict", "apart"]


@pytest.fixture(params=HOW)
async def host(profile: Profile, request: pytest.FixtureRequest) -> AsyncIterator[Host]:
    async with hosted(profile, SERVICES, request.param) as found:
        yield found


@pytest.fixture
def keys(host: Host) -> AuthenticationClient:
    return host.client(AuthenticationClient)


async def make(keys: AuthenticationClient, who: Principal, name: str = "n", **fields) -> CreatedKey:
    with acting_for(who):
        return await keys.create_key(CreateKeyRequest(name=name, **{"scopes": ["models:read"], **fields}))


async def make_desk(keys: AuthenticationClient, name: str, scopes: Iterable[str] = SCOPES, **fields) -> None:
    with acting_for(OPERATOR):
        await keys.put_desk(PutDeskRequest(**{"org": "acme", "name": name, "scopes": sorted(scopes), **fields}))


def actions(dsn: str) -> list[tuple[str, str]]:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("select record from audit.inbox order by id").fetchall()
    found = [(record["action"], record["resource"]) for record in (json.loads(row[0]) for row in rows)]
    return [one for one in found if one[0].startswith(("key.", "limit."))]


async def test_a_key_contains_its_org_desk_and_scopes(
    keys: AuthenticationClient, caller: Principal, profile: Profile
) -> None:
    made = await make(keys, caller, scopes=["models:read", "models:invoke", "models:read"], ttl_seconds=3600)
    async with aclosing(keys.watch_credentials(WatchCredentialsRequest())) as news:
        credentials = await anext(news)
    (public,) = jwt.PyJWKSet.from_json(credentials.jwks).keys
    said = jwt.decode(made.secret, public, ["ES256"], audience=credentials.audience, issuer=credentials.issuer)
    assert said.pop("exp") - said.pop("iat") == 3600
    assert said == {
        "iss": "drw",
        "aud": "drw-gateway",
        "sub": made.key.id,
        "jti": made.key.id,
        "org": "acme",
        "desk": "research",
        "scope": "models:invoke models:read",
    }
    walled = await make(keys, replace(caller, walls=frozenset({"rates", "m-and-a"})), walls=["rates", "m-and-a"])
    assert jwt.decode(walled.secret, public, ["ES256"], audience="drw-gateway")["walls"] == "m-and-a rates"
    assert jwt.get_unverified_header(made.secret)["kid"] == public.key_id
    assert "d" not in json.loads(credentials.jwks)["keys"][0]


async def test_the_secret_is_stored_nowhere(
    keys: AuthenticationClient, caller: Principal, profile: Profile, caplog: pytest.LogCaptureFixture
) -> None:
    made = await make(keys, caller, requests_per_minute=7)
    with acting_for(caller):
        successor = await keys.rotate_key(RotateKeyRequest(id=made.key.id, overlap_seconds=60))
    tables = "select schemaname, tablename from pg_tables where schemaname !~ '^(pg_|information)'"
    with psycopg.connect(profile.postgres) as connection:
        kept = {}
        for schema, table in connection.execute(tables).fetchall():
            query = sql.SQL("select * from {}").format(sql.Identifier(schema, table))
            kept[f"{schema}.{table}"] = str(connection.execute(query).fetchall())
    assert {"authentication.key", "audit.inbox", "rate_limiting.subject_limit"} <= {
        n for n in kept if made.key.id in kept[n]
    }
    for one in (made, successor):
        assert one.secret.endswith(one.key.last_characters) and len(one.key.last_characters) == 6
        for part in (one.secret, one.secret.rpartition(".")[2]):  # nor its signature alone, which is the secret in it
            assert not [name for name, text in kept.items() if part in text]
            assert part not in caplog.text


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"scopes": ["models:fly"]}, "'models:fly' is not a scope; there are: models:invoke, models:read"),
        ({"scopes": []}, "at least one scope"),
        ({"name": " "}, "1 to 100 printable characters"),
        ({"name": "a" * 101}, "1 to 100 printable characters"),
        ({"name": "a\nb"}, "1 to 100 printable characters"),
        ({"ttl_seconds": 59}, "ttl_seconds is 59; it can be 60 to 31622400"),
        ({"ttl_seconds": -1}, "ttl_seconds is -1"),
        ({"ttl_seconds": 1 << 62}, "it can be 0 to 31622400"),
        ({"requests_per_minute": -1}, "requests_per_minute is -1; it can be 0 to 1000000"),
        ({"requests_per_minute": 1_000_001}, "requests_per_minute is 1000001"),
        ({"desk": "Not A Desk"}, "desk is 'Not A Desk'; it must be lower-case letters"),
    ],
)
async def test_an_invalid_key_request_is_rejected_with_the_valid_form(profile: Profile, fields: Any, said: str) -> None:
    async with hosted(profile, SERVICES) as host:
        with pytest.raises(InvalidRequest) as caught:
            await make(host.client(AuthenticationClient), OPERATOR, **fields)
        assert said in caught.value.message
        assert actions(profile.postgres) == []


async def test_a_caller_cannot_grant_scopes_that_it_lacks(keys: AuthenticationClient, caller: Principal) -> None:
    poor = replace(caller, scopes=frozenset({"keys:write", "models:read"}))
    with pytest.raises(Forbidden, match="lacks the scope 'models:invoke', so it cannot grant it"):
        await make(keys, poor, scopes=["models:read", "models:invoke"])
    with pytest.raises(Forbidden, match="needs 'org:admin'"):
        await make(keys, poor, desk="trading")
    admin = replace(caller, scopes=caller.scopes | {"org:admin"})
    with pytest.raises(NotFound, match="the org 'acme' has no desk 'trading'; .*`drw desks put` makes one"):
        await make(keys, admin, desk="trading")
    await make_desk(keys, "trading")
    assert (await make(keys, admin, desk="trading")).key.desk == "trading"
    with pytest.raises(Unauthenticated):
        await keys.create_key(CreateKeyRequest(name="n", scopes=["models:read"]))


async def test_a_desk_sees_its_own_keys_and_an_admin_the_org(keys: AuthenticationClient, caller: Principal) -> None:
    trading = replace(caller, desk="trading")
    elsewhere = replace(caller, org="other", scopes=frozenset(SCOPES))
    await make_desk(keys, "trading")
    mine, theirs = await make(keys, caller), await make(keys, trading)

    async def seen(who: Principal) -> list[str]:
        with acting_for(who):
            return [key.id for key in (await keys.list_keys(ListKeysRequest())).keys]

    assert await seen(caller) == [mine.key.id]
    assert await seen(replace(caller, scopes=frozenset(SCOPES))) == [theirs.key.id, mine.key.id]
    assert await seen(elsewhere) == []
    for who in (trading, elsewhere):
        with acting_for(who), pytest.raises(NotFound, match="there is no key"):
            await keys.get_key(GetKeyRequest(id=mine.key.id))
        with acting_for(who), pytest.raises(NotFound):
            await keys.revoke_key(RevokeKeyRequest(id=mine.key.id))
    with acting_for(caller):
        assert not (await keys.get_key(GetKeyRequest(id=mine.key.id))).HasField("revoked_at")


async def test_keys_come_in_pages(keys: AuthenticationClient, caller: Principal) -> None:
    made = [(await make(keys, caller, name=f"n{i}")).key.id for i in range(5)]
    found, token = [], ""
    with acting_for(caller):
        while True:
            page = await keys.list_keys(ListKeysRequest(page_size=2, page_token=token))
            assert len(page.keys) <= 2
            found += [key.id for key in page.keys]
            if not (token := page.next_page_token):
                break
        assert found == made[::-1]
        for wrong in (ListKeysRequest(page_size=1001), ListKeysRequest(page_size=-1), ListKeysRequest(page_token="x")):
            with pytest.raises(InvalidRequest):
                await keys.list_keys(wrong)


async def test_a_revoked_key_is_sent_to_the_data_planes_once(
    keys: AuthenticationClient, caller: Principal, profile: Profile
) -> None:
    made = await make(keys, caller)
    async with aclosing(keys.watch_credentials(WatchCredentialsRequest())) as news:
        assert list((await anext(news)).revoked) == []
        with acting_for(caller):
            first = await keys.revoke_key(RevokeKeyRequest(id=made.key.id))
            again = await keys.revoke_key(RevokeKeyRequest(id=made.key.id))
            assert first == again and first.HasField("revoked_at")
            assert [k.id for k in (await keys.list_keys(ListKeysRequest())).keys] == []
            assert [k.id for k in (await keys.list_keys(ListKeysRequest(all=True))).keys] == [made.key.id]
        assert list((await anext(news)).revoked) == [made.key.id]
    key = f"key/{made.key.id}"
    assert actions(profile.postgres) == [("key.create", key), ("key.revoke", key)]


async def test_a_revoked_key_leaves_the_list_after_its_end(
    keys: AuthenticationClient, caller: Principal, profile: Profile
) -> None:
    old, new = await make(keys, caller), await make(keys, caller)
    with acting_for(caller):
        for made in (old, new):
            await keys.revoke_key(RevokeKeyRequest(id=made.key.id))
    with psycopg.connect(profile.postgres) as connection:
        query = "update authentication.key set expires_at = now() - interval '2 hours' where id = %s"
        connection.execute(query, (old.key.id,))
    async with aclosing(keys.watch_credentials(WatchCredentialsRequest())) as news:
        assert list((await anext(news)).revoked) == [new.key.id]


async def test_a_key_has_its_limit_before_it_is_good(
    host: Host, keys: AuthenticationClient, caller: Principal, profile: Profile
) -> None:
    made = await make(keys, caller, requests_per_minute=7)
    with acting_for(caller):
        (limit,) = (await host.client(RateLimitingClient).list_limits(ListLimitsRequest())).limits
    assert (limit.key, limit.requests_per_minute, limit.desk) == (made.key.id, 7, "research")
    assert limit.expires_at == made.key.expires_at
    key = f"key/{made.key.id}"
    done = [found for found in actions(profile.postgres) if found[0] == "key.create" or found[1] == key]
    assert done[0] == ("limit.set", key) and done[-1] == ("key.create", key)


async def test_without_its_limit_there_is_no_key(profile: Profile, caller: Principal, folder: Path) -> None:
    places = {
        "authentication": ServiceAddress(services=("authentication",), grpc="127.0.0.1:0", http="127.0.0.1:0"),
        "gone": ServiceAddress(services=("rate_limiting",), grpc=f"unix:{folder}/gone.g", http=f"unix:{folder}/gone.h"),
    }
    host = Host(profile.model_copy(update={"processes": places}), "authentication")
    await host.start()
    try:
        with acting_for(OPERATOR):
            client, held = host.client(AuthenticationClient), sorted(caller.scopes)
            await client.put_org(PutOrgRequest(name="acme", scopes=held))
            await client.put_desk(PutDeskRequest(org="acme", name="research", scopes=held))
        with pytest.raises(Unavailable, match="the rate_limiting service does not answer"):
            await make(host.client(AuthenticationClient), caller, requests_per_minute=7)
        with acting_for(caller):
            assert not (await host.client(AuthenticationClient).list_keys(ListKeysRequest(all=True))).keys
    finally:
        await host.stop(grace=0)


async def test_every_process_signs_with_the_same_key(profile: Profile, caller: Principal) -> None:
    kids = set()
    for _ in range(2):
        async with hosted(profile, SERVICES) as host:
            made = await make(host.client(AuthenticationClient), caller)
            kids.add(jwt.get_unverified_header(made.secret)["kid"])
    assert len(kids) == 1


async def test_the_operator_of_the_machine_makes_the_first_key(profile: Profile) -> None:
    async with hosted(profile, SERVICES, "apart") as host:
        channels = Channels()
        client = channels.client(AuthenticationClient, host.profile.place("authentication").grpc)
        made = await make(client, OPERATOR, name="first", scopes=sorted(SCOPES))
        await channels.close()
    assert made.key.org == "local" and set(made.key.scopes) == set(SCOPES)


async def test_metrics_tell_how_old_the_signing_key_is(profile: Profile, caller: Principal) -> None:
    async with hosted(profile, ["authentication", "rate_limiting"]) as host:
        with acting_for(caller):
            await host.client(AuthenticationClient).create_key(CreateKeyRequest(name="one", scopes=["models:read"]))
        found = await measured(host)
        with psycopg.connect(profile.postgres) as connection:
            connection.execute("update authentication.signing_key set created_at = now() - interval '100 days'")
        later = await measured(host)
        with acting_for(OPERATOR):  # one that is new and signs nothing yet, and one that was and is retired
            new = await host.client(AuthenticationClient).rotate_signing_key(RotateSigningKeyRequest())
            waits = await measured(host)
            await host.client(AuthenticationClient).retire_signing_key(RetireSigningKeyRequest(kid=new.kid))
        retired = await measured(host)
    for found_later in (waits, retired):
        assert found_later["drw_signing_key_age_seconds"] >= 100 * 86400
    assert 0 <= found["drw_signing_key_age_seconds"] < 3600
    assert 100 * 86400 <= later["drw_signing_key_age_seconds"] < 101 * 86400


async def test_no_org_fills_the_data_planes(
    profile: Profile, caller: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hosted(profile, SERVICES) as host:
        client = host.client(AuthenticationClient)
        await make_desk(client, "second")
        monkeypatch.setattr(keys_module, "MAX_KEYS", 2)
        made = [await make(client, caller) for _ in range(2)]
        with acting_for(caller):
            await client.revoke_key(RevokeKeyRequest(id=made[0].key.id))  # which data planes hold until it expires
        with pytest.raises(Conflict, match="has 2 keys that have not expired"):
            await make(client, caller)
        monkeypatch.setattr(hierarchy, "MAX_DESKS", 2)
        await make_desk(client, "second", title="one that is there")
        with pytest.raises(Conflict, match="has 2 desks"):
            await make_desk(client, "third")
