"""Signing keys: sealed at rest, rotated with overlap, retired in an emergency; and keys that get a successor."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from importlib import resources
from typing import Any

import jwt
import psycopg
import pytest

from drw.api.gateway.v1.authentication_pb2 import (
    CreateKeyRequest,
    GetDeskRequest,
    GetKeyRequest,
    ListKeysRequest,
    ListSigningKeysRequest,
    RetireSigningKeyRequest,
    RevokeKeyRequest,
    RotateKeyRequest,
    RotateSigningKeyRequest,
    SigningKey,
    WatchCredentialsRequest,
)
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.api.gateway.v1.rate_limiting_pb2 import ListLimitsRequest
from drw.api.gateway.v1.rate_limiting_rpc import RateLimitingClient
from drw.gateway.authentication.keys.encryption import EnvelopeEncryption, WrongSecret
from drw.gateway.authentication.keys.secret import weakness
from drw.gateway.authentication.keys.signing import Signer, new_private_key
from drw.kernel.errors import Conflict, Forbidden, InvalidRequest, NotFound
from drw.kernel.rpc.context import Principal, acting_for
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import ConfigError, Profile
from drw.local.first_key import OPERATOR
from support.hosting import SECRET, hosted

SERVICES = ["authentication", "rate_limiting"]
OTHER = "Q9w-2Lk7_h4Zt8Vb3Nm6Xc1Rf5Gd0JpT"  # as good as the other, and another
STATE = SigningKey.State


def with_settings(profile, **settings):
    own = profile.services["authentication"] | settings
    return profile.model_copy(update={"services": profile.services | {"authentication": own}})


@pytest.fixture
async def host(profile: Profile) -> AsyncIterator[Host]:
    async with hosted(profile, SERVICES) as found:
        yield found


@pytest.fixture
def client(host: Host) -> AuthenticationClient:
    return host.client(AuthenticationClient)


def execute(profile, query: str, *args) -> list[tuple]:
    with psycopg.connect(profile.postgres, autocommit=True) as connection:
        done = connection.execute(query.encode(), args)
        return done.fetchall() if done.description else []


async def made(client, **fields):
    with acting_for(OPERATOR):
        return await client.create_key(CreateKeyRequest(name="n", **{"scopes": ["models:read"], **fields}))


def signed_with(created) -> str:
    kid = jwt.get_unverified_header(created.secret)["kid"]
    assert kid == created.key.signed_with
    return kid


async def published(client) -> set[str]:
    async with aclosing(client.watch_credentials(WatchCredentialsRequest())) as news:
        return {key["kid"] for key in json.loads((await anext(news)).jwks)["keys"]}


async def revoked(client) -> set[str]:
    async with aclosing(client.watch_credentials(WatchCredentialsRequest())) as news:
        return set((await anext(news)).revoked)


async def states(client) -> list[tuple[str, str]]:
    with acting_for(OPERATOR):
        found = (await client.list_signing_keys(ListSigningKeysRequest())).signing_keys
    return [(key.kid, STATE.Name(key.state)) for key in found]


async def rotate(client, profile, *, at_once: bool = True) -> str:
    with acting_for(OPERATOR):
        kid = (await client.rotate_signing_key(RotateSigningKeyRequest())).kid
    if at_once:  # as if the time until it signs had gone by
        execute(profile, "update authentication.signing_key set signs_from = now() where kid = %s", kid)
    return kid


async def test_a_new_signing_key_is_known_before_it_signs(client: AuthenticationClient, profile: Profile) -> None:
    old = signed_with(await made(client))
    async with aclosing(client.watch_credentials(WatchCredentialsRequest())) as news:
        await anext(news)
        new = await rotate(client, profile, at_once=False)
        assert {key["kid"] for key in json.loads((await anext(news)).jwks)["keys"]} == {old, new}
    assert signed_with(await made(client)) == old
    assert await states(client) == [(new, "PUBLISHED"), (old, "SIGNS")]
    with acting_for(OPERATOR), pytest.raises(Conflict, match=f"the signing key {new!r} is new already, and signs from"):
        await client.rotate_signing_key(RotateSigningKeyRequest())
    execute(profile, "update authentication.signing_key set signs_from = now() where kid = %s", new)
    assert signed_with(await made(client)) == new
    assert await states(client) == [(new, "SIGNS"), (old, "VERIFIES")]


async def test_an_old_signing_key_verifies_until_its_last_key_has_ended(
    client: AuthenticationClient, profile: Profile
) -> None:
    key = await made(client)
    old = signed_with(key)
    new = await rotate(client, profile)
    assert await published(client) == {old, new}
    with acting_for(OPERATOR):
        shown = (await client.list_signing_keys(ListSigningKeysRequest())).signing_keys[1]
    assert (shown.good_keys, shown.last_key_ends_at) == (1, key.key.expires_at)
    execute(profile, "update authentication.key set expires_at = now() - interval '2 hours'")
    assert await states(client) == [(new, "SIGNS"), (old, "ENDED")]
    assert await published(client) == {new}


async def test_a_retired_signing_key_takes_its_keys_with_it(client: AuthenticationClient, profile: Profile) -> None:
    bad = await made(client)
    old = signed_with(bad)
    await rotate(client, profile)
    good = await made(client)
    with acting_for(OPERATOR):
        answer = await client.retire_signing_key(RetireSigningKeyRequest(kid=old))
        again = await client.retire_signing_key(RetireSigningKeyRequest(kid=old))
        assert (answer.revoked_keys, again.revoked_keys) == (1, 0)
        assert answer.signing_key == again.signing_key and answer.signing_key.state == SigningKey.RETIRED
        assert (await client.get_key(GetKeyRequest(id=bad.key.id))).HasField("revoked_at")
        assert not (await client.get_key(GetKeyRequest(id=good.key.id))).HasField("revoked_at")
        with pytest.raises(NotFound, match="there is no signing key 'x'; `drw keys signing` shows them"):
            await client.retire_signing_key(RetireSigningKeyRequest(kid="x"))
    assert await published(client) == {signed_with(good)}
    assert execute(profile, "select private_key from authentication.signing_key where kid = %s", old) == [("",)]
    # Even the only one: another takes its place at once.
    with acting_for(OPERATOR):
        await client.retire_signing_key(RetireSigningKeyRequest(kid=signed_with(good)))
    assert await published(client) == {signed_with(await made(client))}


async def test_keys_stay_rejected_until_every_data_plane_has_dropped_their_signing_key(
    client: AuthenticationClient, profile: Profile
) -> None:
    early, late = await made(client), await made(client)
    with acting_for(OPERATOR):
        await client.revoke_key(RevokeKeyRequest(id=early.key.id))
        await client.retire_signing_key(RetireSigningKeyRequest(kid=signed_with(late)))
    assert await revoked(client) == {early.key.id, late.key.id}
    execute(profile, "update authentication.signing_key set retired_at = retired_at - interval '1 hour'")
    assert await revoked(client) == set()


async def test_retiring_the_current_signing_key_activates_the_next(
    client: AuthenticationClient, profile: Profile
) -> None:
    old = signed_with(await made(client))
    new = await rotate(client, profile, at_once=False)
    with acting_for(OPERATOR):
        await client.retire_signing_key(RetireSigningKeyRequest(kid=old))
    assert signed_with(await made(client)) == new


async def test_there_is_an_end_to_live_signing_keys(client: AuthenticationClient, profile: Profile) -> None:
    for _ in range(7):
        await made(client)
        await rotate(client, profile)
    await made(client)
    with (
        acting_for(OPERATOR),
        pytest.raises(Conflict, match="8 signing keys are live, .*must have ended or be retired"),
    ):
        await client.rotate_signing_key(RotateSigningKeyRequest())


async def test_changes_of_signing_keys_are_on_record(client: AuthenticationClient, profile: Profile) -> None:
    old = signed_with(await made(client))
    new = await rotate(client, profile)
    with acting_for(OPERATOR):
        await client.retire_signing_key(RetireSigningKeyRequest(kid=old))
    rows = [json.loads(row[0]) for row in execute(profile, "select record from audit.inbox order by id")]
    found = {row["action"]: row for row in rows if row["action"].startswith("signing_key.")}
    assert found["signing_key.rotate"]["details"]["before"] == {"signs": old}
    assert found["signing_key.rotate"]["actor"] == "operator"
    assert found["signing_key.retire"]["details"]["revoked_keys"] == 1
    assert len(found["signing_key.retire"]["details"]["revoked"]) == 1
    assert (found["signing_key.create"]["actor"], found["signing_key.create"]["resource"]) == (
        "platform",
        f"signingKey/{old}",
    )
    assert found["signing_key.create"]["details"] == {"before": None, "after": {"signs": old}}
    assert found["signing_key.retire"]["details"]["after"] == {"signs": new}


async def test_private_keys_lie_sealed(profile: Profile) -> None:
    pem = new_private_key()
    async with hosted(profile, SERVICES) as host:
        kid = signed_with(await made(host.client(AuthenticationClient)))
    ((kept,),) = execute(profile, "select private_key from authentication.signing_key")
    assert kept.startswith("sealed:1:") and "PRIVATE" not in kept
    opened = EnvelopeEncryption(SECRET).decrypt(kid, kept)
    assert opened.startswith("-----BEGIN PRIVATE KEY-----")
    for name, secret in ((kid, OTHER), ("other", SECRET)):
        with pytest.raises(WrongSecret):
            EnvelopeEncryption(secret).decrypt(name, kept)
    with pytest.raises(WrongSecret):
        EnvelopeEncryption(SECRET).decrypt(kid, kept[:-8] + "AAAAAAA=")
    assert EnvelopeEncryption(SECRET).encrypt("x", pem) != EnvelopeEncryption(SECRET).encrypt("x", pem)
    # What the first release left unsealed is sealed at the next start, and still signs.
    execute(profile, "update authentication.signing_key set private_key = %s", opened)
    async with hosted(profile, SERVICES) as host:
        ((again,),) = execute(profile, "select private_key from authentication.signing_key")
        assert again.startswith("sealed:1:") and again != kept
        assert signed_with(await made(host.client(AuthenticationClient))) == kid


async def test_a_changed_secret_is_rejected_unless_the_former_one_is_given(profile: Profile) -> None:
    async with hosted(profile, SERVICES) as host:
        kid = signed_with(await made(host.client(AuthenticationClient)))
    with pytest.raises(ConfigError) as caught:
        await Host(with_settings(profile, secret=OTHER), "test", SERVICES).start()
    assert f"not the secret that encrypted the signing key {kid!r}" in caught.value.message
    assert OTHER not in caught.value.message
    both = with_settings(profile, secret=OTHER, former_secret=SECRET)
    for now in (both, with_settings(profile, secret=OTHER)):
        async with hosted(now, SERVICES) as host:
            assert signed_with(await made(host.client(AuthenticationClient))) == kid
    rows = [json.loads(row[0]) for row in execute(profile, "select record from audit.inbox order by id")]
    (sealed,) = (row for row in rows if row["action"] == "signing_key.seal")
    assert sealed["resource"] == f"signingKey/{kid}"
    assert sealed["details"] == {
        "before": {"sealed_under": "the former secret"},
        "after": {"sealed_under": "the secret"},
    }


async def test_looking_makes_no_signing_key(profile: Profile) -> None:
    async with hosted(profile, SERVICES) as host:
        execute(profile, "delete from authentication.signing_key")
        client = host.client(AuthenticationClient)
        assert await states(client) == [] and await published(client) == set()
        assert execute(profile, "select kid from authentication.signing_key") == []


async def test_data_of_the_first_release_is_migrated(profile: Profile, caller: Principal) -> None:
    """Its keys stay good, its desks become records that are just wide enough, its signing key is sealed."""
    pem = new_private_key()
    kid = Signer(pem, "drw", "drw-gateway").kid
    first = (resources.files("drw.gateway.authentication") / "migrations" / "0001_key.sql").read_text()
    with psycopg.connect(profile.postgres, autocommit=True) as connection:
        connection.execute("create schema authentication")
        connection.execute("set search_path to authentication")
        connection.execute("create table migration (name text primary key, at timestamptz default now())")
        connection.execute("insert into migration values ('0001_key.sql')")
        connection.execute(first.encode())
        connection.execute("insert into signing_key (kid, private_key) values (%s, %s)", (kid, pem))
        for name, scopes in (("key_a", ["models:read"]), ("key_b", ["keys:read", "models:read"])):
            connection.execute(
                "insert into key (id, name, org, desk, scopes, last_characters, created_at, expires_at, "
                "requests_per_minute) values (%s, 'n', 'old', 'desk', %s, 'abcdef', now(), now() + '1 day', 0)",
                (name, scopes),
            )
    async with hosted(profile, SERVICES) as host:
        client = host.client(AuthenticationClient)
        with acting_for(OPERATOR):
            desk = await client.get_desk(GetDeskRequest(org="old", name="desk"))
        with acting_for(replace(caller, org="old", desk="desk")):
            keys = (await client.list_keys(ListKeysRequest())).keys
        assert list(desk.scopes) == ["keys:read", "models:read"]
        assert [(key.id, key.signed_with) for key in keys] == [("key_b", kid), ("key_a", kid)]
        assert await published(client) == {kid}


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        ("", "is missing; make one with"),
        ("short-Kd83", "has 10 characters; it needs 32"),
        ("kD8" * 400, "it can have 1024 at most"),
        ("changeme-changeme-changeme-changeme", "is a placeholder that everybody knows"),
        ("This-is-my-SuperSecret-signing-value-42", "is a placeholder"),
        ("my_password_for_the_production_gateway", "is a placeholder"),
        ("a" * 40, "is too regular"),
        ("abcabdabcabdabcabdabcabdabcabdabcabd", "is too regular"),
        ("kD83jf02Lx" * 4, "is too regular"),
        ("abcdefghijklmnopqrstuvwxyz0123456789", "is too regular"),
        (f"{OTHER}é{OTHER}", "characters that get lost"),
        (f"{OTHER} \n", "characters that get lost"),
    ],
)
async def test_a_weak_secret_keeps_the_service_from_starting(profile: Profile, secret: Any, said: str) -> None:
    host = Host(with_settings(profile, secret=secret), "test", SERVICES)
    with pytest.raises(ConfigError) as caught:
        await host.start()
    await host.stop(grace=0)
    assert said in caught.value.message and caught.value.message.startswith("authentication: secret: ")
    assert not secret or secret not in caught.value.message
    assert not secret or secret not in str(caught.value.__cause__)  # what a log would show of it


def test_random_secrets_are_good() -> None:
    for secret in (SECRET, OTHER, "1f0c9b3e7a5d28460e8d7c6b5a493827", SECRET * 2 + OTHER):
        assert weakness(secret) == ""


async def test_a_key_gets_a_successor_and_ends_after_the_overlap(
    host: Host, client: AuthenticationClient, profile: Profile
) -> None:
    old = await made(client, requests_per_minute=7, ttl_seconds=86400)
    with acting_for(OPERATOR):
        new = await client.rotate_key(RotateKeyRequest(id=old.key.id, overlap_seconds=3600))
        before = await client.get_key(GetKeyRequest(id=old.key.id))
        assert before.successor == new.key.id and not before.HasField("revoked_at")
        assert 3500 <= before.ends_at.seconds - new.key.created_at.seconds <= 3700
        for field in ("name", "desk", "scopes", "walls", "requests_per_minute"):
            assert getattr(new.key, field) == getattr(old.key, field)
        assert new.key.expires_at.seconds - new.key.created_at.seconds == 86400
        limits = (await host.client(RateLimitingClient).list_limits(ListLimitsRequest())).limits
        assert {limit.key for limit in limits} == {old.key.id, new.key.id}
        with pytest.raises(Conflict, match="has a successor already"):
            await client.rotate_key(RotateKeyRequest(id=old.key.id))
        execute(profile, "update authentication.key set ends_at = now() where id = %s", old.key.id)
        async with aclosing(client.watch_credentials(WatchCredentialsRequest())) as news:
            async for found in news:
                if list(found.revoked) == [old.key.id]:
                    break
        assert [key.id for key in (await client.list_keys(ListKeysRequest())).keys] == [new.key.id]


async def test_a_rotation_without_overlap_revokes_at_once(client: AuthenticationClient) -> None:
    old = await made(client)
    with acting_for(OPERATOR):
        await client.rotate_key(RotateKeyRequest(id=old.key.id))
        assert (await client.get_key(GetKeyRequest(id=old.key.id))).HasField("revoked_at")
        for wrong in (-1, 31 * 86400):
            with pytest.raises(InvalidRequest, match=f"overlap_seconds is {wrong}; it can be 0 to 2592000"):
                await client.rotate_key(RotateKeyRequest(id=old.key.id, overlap_seconds=wrong))


async def test_a_rotation_gives_nothing_that_could_not_be_made(client: AuthenticationClient) -> None:
    old = await made(client, scopes=["models:read", "models:invoke"])
    poor = replace(OPERATOR, key="key_poor", scopes=frozenset({"keys:write", "models:read"}))
    with acting_for(poor), pytest.raises(Forbidden, match="lacks the scope 'models:invoke'"):
        await client.rotate_key(RotateKeyRequest(id=old.key.id))
    with acting_for(replace(OPERATOR, org="acme")), pytest.raises(NotFound):
        await client.rotate_key(RotateKeyRequest(id=old.key.id))
    with acting_for(OPERATOR):
        await client.revoke_key(RevokeKeyRequest(id=old.key.id))
        with pytest.raises(Conflict, match="has ended, is revoked"):
            await client.rotate_key(RotateKeyRequest(id=old.key.id))


async def test_a_revocation_outlives_a_restart(profile: Profile) -> None:
    async with hosted(profile, SERVICES) as host:
        client = host.client(AuthenticationClient)
        key = await made(client)
        with acting_for(OPERATOR):
            await client.revoke_key(RevokeKeyRequest(id=key.key.id))
    async with (
        hosted(profile, SERVICES) as host,
        aclosing(host.client(AuthenticationClient).watch_credentials(WatchCredentialsRequest())) as news,
    ):
        assert list((await anext(news)).revoked) == [key.key.id]
