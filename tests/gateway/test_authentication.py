"""API keys: permission to issue them, storage without secrets, and delivery to data planes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

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
from support.database.audit_records import audit_records
from support.hosting import hosted
from support.json_types import Json, JsonObject
from support.telemetry.metrics import scrape

SERVICES = ["authentication", "rate_limiting"]
OPERATOR = Principal("local", "research", "operator", frozenset(SCOPES))
HOW = ["together", "strict", "apart"]


@pytest.fixture(params=HOW)
async def host(profile: Profile, request: pytest.FixtureRequest) -> AsyncIterator[Host]:
    async with hosted(profile, SERVICES, request.param) as running:
        yield running


@pytest.fixture
def keys(host: Host) -> AuthenticationClient:
    return host.client(AuthenticationClient)


async def create(keys: AuthenticationClient, principal: Principal, name: str = "n", **fields: Json) -> CreatedKey:
    with acting_for(principal):
        return await keys.create_key(CreateKeyRequest(name=name, **{"scopes": ["models:read"], **fields}))


async def make_desk(keys: AuthenticationClient, name: str, scopes: Iterable[str] = SCOPES, **fields: Json) -> None:
    with acting_for(OPERATOR):
        await keys.put_desk(PutDeskRequest(**{"org": "acme", "name": name, "scopes": sorted(scopes), **fields}))


def actions(profile: Profile) -> list[tuple[str, str]]:
    return [(record["action"], record["resource"]) for record in audit_records(profile, "key.*", "limit.*")]


async def test_a_key_contains_its_org_desk_and_scopes(
    keys: AuthenticationClient, caller: Principal, profile: Profile
) -> None:
    created = await create(keys, caller, scopes=["models:read", "models:invoke", "models:read"], ttl_seconds=3600)
    async with aclosing(keys.watch_credentials(WatchCredentialsRequest())) as updates:
        credentials = await anext(updates)
    (public,) = jwt.PyJWKSet.from_json(credentials.jwks).keys
    claims = jwt.decode(created.secret, public, ["ES256"], audience=credentials.audience, issuer=credentials.issuer)
    assert claims.pop("exp") - claims.pop("iat") == 3600
    assert claims == {
        "iss": "drw",
        "aud": "drw-gateway",
        "sub": created.key.id,
        "jti": created.key.id,
        "org": "acme",
        "desk": "research",
        "scope": "models:invoke models:read",
    }
    walled = await create(keys, replace(caller, walls=frozenset({"rates", "m-and-a"})), walls=["rates", "m-and-a"])
    assert jwt.decode(walled.secret, public, ["ES256"], audience="drw-gateway")["walls"] == "m-and-a rates"
    assert jwt.get_unverified_header(created.secret)["kid"] == public.key_id
    assert "d" not in json.loads(credentials.jwks)["keys"][0]


async def test_the_secret_is_stored_nowhere(
    keys: AuthenticationClient, caller: Principal, profile: Profile, caplog: pytest.LogCaptureFixture
) -> None:
    created = await create(keys, caller, requests_per_minute=7)
    with acting_for(caller):
        successor = await keys.rotate_key(RotateKeyRequest(id=created.key.id, overlap_seconds=60))
    query = "select schemaname, tablename from pg_tables where schemaname !~ '^(pg_|information)'"
    with psycopg.connect(profile.postgres) as connection:
        tables = {}
        for schema, table in connection.execute(query).fetchall():
            select = sql.SQL("select * from {}").format(sql.Identifier(schema, table))
            tables[f"{schema}.{table}"] = str(connection.execute(select).fetchall())
    assert {"authentication.key", "audit.inbox", "rate_limiting.subject_limit"} <= {
        n for n in tables if created.key.id in tables[n]
    }
    for issued in (created, successor):
        assert issued.secret.endswith(issued.key.last_characters) and len(issued.key.last_characters) == 6
        for secret in (
            issued.secret,
            issued.secret.rpartition(".")[2],
        ):  # the signature alone is secret as well
            assert not [name for name, text in tables.items() if secret in text]
            assert secret not in caplog.text


@pytest.mark.parametrize(
    ("fields", "message"),
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
async def test_an_invalid_key_request_is_rejected_with_the_valid_form(
    profile: Profile, fields: JsonObject, message: str
) -> None:
    async with hosted(profile, SERVICES) as host:
        with pytest.raises(InvalidRequest) as caught:
            await create(host.client(AuthenticationClient), OPERATOR, **fields)
        assert message in caught.value.message
        assert actions(profile) == []


async def test_a_caller_cannot_grant_scopes_that_it_lacks(keys: AuthenticationClient, caller: Principal) -> None:
    limited = replace(caller, scopes=frozenset({"keys:write", "models:read"}))
    with pytest.raises(Forbidden, match="lacks the scope 'models:invoke', so it cannot grant it"):
        await create(keys, limited, scopes=["models:read", "models:invoke"])
    with pytest.raises(Forbidden, match="needs 'org:admin'"):
        await create(keys, limited, desk="trading")
    admin = replace(caller, scopes=caller.scopes | {"org:admin"})
    with pytest.raises(NotFound, match="the org 'acme' has no desk 'trading'; .*`drw desks put` creates one"):
        await create(keys, admin, desk="trading")
    await make_desk(keys, "trading")
    assert (await create(keys, admin, desk="trading")).key.desk == "trading"
    with pytest.raises(Unauthenticated):
        await keys.create_key(CreateKeyRequest(name="n", scopes=["models:read"]))


async def test_a_caller_lists_the_keys_of_its_desk_and_an_admin_those_of_the_org(
    keys: AuthenticationClient, caller: Principal
) -> None:
    trading = replace(caller, desk="trading")
    other_org = replace(caller, org="other", scopes=frozenset(SCOPES))
    await make_desk(keys, "trading")
    own_key, other_key = await create(keys, caller), await create(keys, trading)

    async def listed(principal: Principal) -> list[str]:
        with acting_for(principal):
            return [key.id for key in (await keys.list_keys(ListKeysRequest())).keys]

    assert await listed(caller) == [own_key.key.id]
    assert await listed(replace(caller, scopes=frozenset(SCOPES))) == [other_key.key.id, own_key.key.id]
    assert await listed(other_org) == []
    for principal in (trading, other_org):
        with acting_for(principal), pytest.raises(NotFound, match="there is no key"):
            await keys.get_key(GetKeyRequest(id=own_key.key.id))
        with acting_for(principal), pytest.raises(NotFound):
            await keys.revoke_key(RevokeKeyRequest(id=own_key.key.id))
    with acting_for(caller):
        assert not (await keys.get_key(GetKeyRequest(id=own_key.key.id))).HasField("revoked_at")


async def test_keys_are_listed_in_pages(keys: AuthenticationClient, caller: Principal) -> None:
    created = [(await create(keys, caller, name=f"n{i}")).key.id for i in range(5)]
    listed, token = [], ""
    with acting_for(caller):
        while True:
            page = await keys.list_keys(ListKeysRequest(page_size=2, page_token=token))
            assert len(page.keys) <= 2
            listed += [key.id for key in page.keys]
            if not (token := page.next_page_token):
                break
        assert listed == created[::-1]
        for invalid in (
            ListKeysRequest(page_size=1001),
            ListKeysRequest(page_size=-1),
            ListKeysRequest(page_token="x"),
        ):
            with pytest.raises(InvalidRequest):
                await keys.list_keys(invalid)


async def test_a_revocation_is_sent_to_data_planes_and_audited_once(
    keys: AuthenticationClient, caller: Principal, profile: Profile
) -> None:
    created = await create(keys, caller)
    async with aclosing(keys.watch_credentials(WatchCredentialsRequest())) as updates:
        assert list((await anext(updates)).revoked) == []
        with acting_for(caller):
            first = await keys.revoke_key(RevokeKeyRequest(id=created.key.id))
            again = await keys.revoke_key(RevokeKeyRequest(id=created.key.id))
            assert first == again and first.HasField("revoked_at")
            assert [k.id for k in (await keys.list_keys(ListKeysRequest())).keys] == []
            assert [k.id for k in (await keys.list_keys(ListKeysRequest(all=True))).keys] == [created.key.id]
        assert list((await anext(updates)).revoked) == [created.key.id]
    key = f"key/{created.key.id}"
    assert actions(profile) == [("key.create", key), ("key.revoke", key)]


async def test_a_revoked_key_is_removed_from_the_list_after_it_expires(
    keys: AuthenticationClient, caller: Principal, profile: Profile
) -> None:
    old, new = await create(keys, caller), await create(keys, caller)
    with acting_for(caller):
        for created in (old, new):
            await keys.revoke_key(RevokeKeyRequest(id=created.key.id))
    with psycopg.connect(profile.postgres) as connection:
        query = "update authentication.key set expires_at = now() - interval '2 hours' where id = %s"
        connection.execute(query, (old.key.id,))
    async with aclosing(keys.watch_credentials(WatchCredentialsRequest())) as updates:
        assert list((await anext(updates)).revoked) == [new.key.id]


async def test_a_key_gets_its_limit_before_it_becomes_valid(
    host: Host, keys: AuthenticationClient, caller: Principal, profile: Profile
) -> None:
    created = await create(keys, caller, requests_per_minute=7)
    with acting_for(caller):
        (limit,) = (await host.client(RateLimitingClient).list_limits(ListLimitsRequest())).limits
    assert (limit.key, limit.requests_per_minute, limit.desk) == (created.key.id, 7, "research")
    assert limit.expires_at == created.key.expires_at
    key = f"key/{created.key.id}"
    recorded = [action for action in actions(profile) if action[0] == "key.create" or action[1] == key]
    assert recorded[0] == ("limit.set", key) and recorded[-1] == ("key.create", key)


async def test_a_key_is_not_created_if_its_limit_cannot_be_set(
    profile: Profile, caller: Principal, folder: Path
) -> None:
    processes = {
        "authentication": ServiceAddress(services=("authentication",), grpc="127.0.0.1:0", http="127.0.0.1:0"),
        "gone": ServiceAddress(services=("rate_limiting",), grpc=f"unix:{folder}/gone.g", http=f"unix:{folder}/gone.h"),
    }
    host = Host(profile.model_copy(update={"processes": processes}), "authentication")
    await host.start()
    try:
        with acting_for(OPERATOR):
            client, scopes = host.client(AuthenticationClient), sorted(caller.scopes)
            await client.put_org(PutOrgRequest(name="acme", scopes=scopes))
            await client.put_desk(PutDeskRequest(org="acme", name="research", scopes=scopes))
        with pytest.raises(Unavailable, match="the rate_limiting service does not answer"):
            await create(host.client(AuthenticationClient), caller, requests_per_minute=7)
        with acting_for(caller):
            assert not (await host.client(AuthenticationClient).list_keys(ListKeysRequest(all=True))).keys
    finally:
        await host.stop(grace=0)


async def test_every_process_signs_with_the_same_key(profile: Profile, caller: Principal) -> None:
    kids = set()
    for _ in range(2):
        async with hosted(profile, SERVICES) as host:
            created = await create(host.client(AuthenticationClient), caller)
            kids.add(jwt.get_unverified_header(created.secret)["kid"])
    assert len(kids) == 1


async def test_the_operator_creates_the_first_key(profile: Profile) -> None:
    async with hosted(profile, SERVICES, "apart") as host:
        channels = Channels()
        client = channels.client(AuthenticationClient, host.profile.address_of("authentication").grpc)
        created = await create(client, OPERATOR, name="first", scopes=sorted(SCOPES))
        await channels.close()
    assert created.key.org == "local" and set(created.key.scopes) == set(SCOPES)


async def test_metrics_contain_the_age_of_the_signing_key(profile: Profile, caller: Principal) -> None:
    async with hosted(profile, ["authentication", "rate_limiting"]) as host:
        with acting_for(caller):
            await host.client(AuthenticationClient).create_key(CreateKeyRequest(name="one", scopes=["models:read"]))
        metrics = await scrape(host)
        with psycopg.connect(profile.postgres) as connection:
            connection.execute("update authentication.signing_key set created_at = now() - interval '100 days'")
        later = await scrape(host)
        with acting_for(OPERATOR):  # a signing key that does not sign yet, then a retired one
            new = await host.client(AuthenticationClient).rotate_signing_key(RotateSigningKeyRequest())
            published = await scrape(host)
            await host.client(AuthenticationClient).retire_signing_key(RetireSigningKeyRequest(kid=new.kid))
        retired = await scrape(host)
    for samples in (published, retired):
        assert samples["drw_signing_key_age_seconds"] >= 100 * 86400
    assert 0 <= metrics["drw_signing_key_age_seconds"] < 3600
    assert 100 * 86400 <= later["drw_signing_key_age_seconds"] < 101 * 86400


async def test_the_number_of_keys_and_desks_of_an_org_is_limited(
    profile: Profile, caller: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hosted(profile, SERVICES) as host:
        client = host.client(AuthenticationClient)
        await make_desk(client, "second")
        monkeypatch.setattr(keys_module, "MAX_KEYS", 2)
        created = [await create(client, caller) for _ in range(2)]
        with acting_for(caller):
            await client.revoke_key(RevokeKeyRequest(id=created[0].key.id))  # data planes hold it until it expires
        with pytest.raises(Conflict, match="has 2 keys that have not expired"):
            await create(client, caller)
        monkeypatch.setattr(hierarchy, "MAX_DESKS", 2)
        await make_desk(client, "second", title="one that is there")
        with pytest.raises(Conflict, match="has 2 desks"):
            await make_desk(client, "third")
