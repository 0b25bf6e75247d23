"""Signing keys: encryption at rest, rotation and retirement; and rotation of API keys."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from importlib import resources

import jwt
import psycopg
import pytest

from drw.api.gateway.v1.authentication_pb2 import (
    CreatedKey,
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
from support.database.audit_records import audit_records
from support.database.sql import execute
from support.hosting import SECRET, hosted
from support.json_types import Json

SERVICES = ["authentication", "rate_limiting"]
OTHER_SECRET = "Q9w-2Lk7_h4Zt8Vb3Nm6Xc1Rf5Gd0JpT"  # another strong secret
STATE = SigningKey.State


def with_settings(profile: Profile, **settings: str) -> Profile:
    section = profile.services["authentication"] | settings
    return profile.model_copy(update={"services": profile.services | {"authentication": section}})


@pytest.fixture
async def host(profile: Profile) -> AsyncIterator[Host]:
    async with hosted(profile, SERVICES) as running:
        yield running


@pytest.fixture
def client(host: Host) -> AuthenticationClient:
    return host.client(AuthenticationClient)


async def create_key(client: AuthenticationClient, **fields: Json) -> CreatedKey:
    with acting_for(OPERATOR):
        return await client.create_key(CreateKeyRequest(name="n", **{"scopes": ["models:read"], **fields}))


def signed_with(created: CreatedKey) -> str:
    kid = jwt.get_unverified_header(created.secret)["kid"]
    assert kid == created.key.signed_with
    return kid


async def published(client: AuthenticationClient) -> set[str]:
    async with aclosing(client.watch_credentials(WatchCredentialsRequest())) as updates:
        return {key["kid"] for key in json.loads((await anext(updates)).jwks)["keys"]}


async def revoked(client: AuthenticationClient) -> set[str]:
    async with aclosing(client.watch_credentials(WatchCredentialsRequest())) as updates:
        return set((await anext(updates)).revoked)


async def states(client: AuthenticationClient) -> list[tuple[str, str]]:
    with acting_for(OPERATOR):
        signing_keys = (await client.list_signing_keys(ListSigningKeysRequest())).signing_keys
    return [(key.kid, STATE.Name(key.state)) for key in signing_keys]


async def rotate(client: AuthenticationClient, profile: Profile, *, immediately: bool = True) -> str:
    with acting_for(OPERATOR):
        kid = (await client.rotate_signing_key(RotateSigningKeyRequest())).kid
    if immediately:  # skips the lead time
        execute(profile, "update authentication.signing_key set signs_from = now() where kid = %s", kid)
    return kid


async def test_a_new_signing_key_is_published_before_it_signs(client: AuthenticationClient, profile: Profile) -> None:
    old = signed_with(await create_key(client))
    async with aclosing(client.watch_credentials(WatchCredentialsRequest())) as updates:
        await anext(updates)
        new = await rotate(client, profile, immediately=False)
        assert {key["kid"] for key in json.loads((await anext(updates)).jwks)["keys"]} == {old, new}
    assert signed_with(await create_key(client)) == old
    assert await states(client) == [(new, "PUBLISHED"), (old, "SIGNS")]
    with acting_for(OPERATOR), pytest.raises(Conflict, match=f"the signing key {new!r} is new already, and signs from"):
        await client.rotate_signing_key(RotateSigningKeyRequest())
    execute(profile, "update authentication.signing_key set signs_from = now() where kid = %s", new)
    assert signed_with(await create_key(client)) == new
    assert await states(client) == [(new, "SIGNS"), (old, "VERIFIES")]


async def test_an_old_signing_key_verifies_until_its_last_key_expires(
    client: AuthenticationClient, profile: Profile
) -> None:
    key = await create_key(client)
    old = signed_with(key)
    new = await rotate(client, profile)
    assert await published(client) == {old, new}
    with acting_for(OPERATOR):
        shown = (await client.list_signing_keys(ListSigningKeysRequest())).signing_keys[1]
    assert (shown.good_keys, shown.last_key_ends_at) == (1, key.key.expires_at)
    execute(profile, "update authentication.key set expires_at = now() - interval '2 hours'")
    assert await states(client) == [(new, "SIGNS"), (old, "ENDED")]
    assert await published(client) == {new}


async def test_retiring_a_signing_key_revokes_its_keys(client: AuthenticationClient, profile: Profile) -> None:
    revoked_key = await create_key(client)
    old = signed_with(revoked_key)
    await rotate(client, profile)
    valid_key = await create_key(client)
    with acting_for(OPERATOR):
        response = await client.retire_signing_key(RetireSigningKeyRequest(kid=old))
        again = await client.retire_signing_key(RetireSigningKeyRequest(kid=old))
        assert (response.revoked_keys, again.revoked_keys) == (1, 0)
        assert response.signing_key == again.signing_key and response.signing_key.state == SigningKey.RETIRED
        assert (await client.get_key(GetKeyRequest(id=revoked_key.key.id))).HasField("revoked_at")
        assert not (await client.get_key(GetKeyRequest(id=valid_key.key.id))).HasField("revoked_at")
        with pytest.raises(NotFound, match="there is no signing key 'x'; `drw keys signing` shows them"):
            await client.retire_signing_key(RetireSigningKeyRequest(kid="x"))
    assert await published(client) == {signed_with(valid_key)}
    assert execute(profile, "select private_key from authentication.signing_key where kid = %s", old) == [("",)]
    # Retiring the only one creates another.
    with acting_for(OPERATOR):
        await client.retire_signing_key(RetireSigningKeyRequest(kid=signed_with(valid_key)))
    assert await published(client) == {signed_with(await create_key(client))}


async def test_keys_stay_rejected_until_every_data_plane_has_dropped_their_signing_key(
    client: AuthenticationClient, profile: Profile
) -> None:
    early, late = await create_key(client), await create_key(client)
    with acting_for(OPERATOR):
        await client.revoke_key(RevokeKeyRequest(id=early.key.id))
        await client.retire_signing_key(RetireSigningKeyRequest(kid=signed_with(late)))
    assert await revoked(client) == {early.key.id, late.key.id}
    execute(profile, "update authentication.signing_key set retired_at = retired_at - interval '1 hour'")
    assert await revoked(client) == set()


async def test_retiring_the_current_signing_key_activates_the_next(
    client: AuthenticationClient, profile: Profile
) -> None:
    old = signed_with(await create_key(client))
    new = await rotate(client, profile, immediately=False)
    with acting_for(OPERATOR):
        await client.retire_signing_key(RetireSigningKeyRequest(kid=old))
    assert signed_with(await create_key(client)) == new


async def test_the_number_of_live_signing_keys_is_limited(client: AuthenticationClient, profile: Profile) -> None:
    for _ in range(7):
        await create_key(client)
        await rotate(client, profile)
    await create_key(client)
    with (
        acting_for(OPERATOR),
        pytest.raises(Conflict, match="8 signing keys are live, .*must have ended or be retired"),
    ):
        await client.rotate_signing_key(RotateSigningKeyRequest())


async def test_changes_of_signing_keys_are_audited(client: AuthenticationClient, profile: Profile) -> None:
    old = signed_with(await create_key(client))
    new = await rotate(client, profile)
    with acting_for(OPERATOR):
        await client.retire_signing_key(RetireSigningKeyRequest(kid=old))
    records = {record["action"]: record for record in audit_records(profile, "signing_key.*")}
    assert records["signing_key.rotate"]["details"]["before"] == {"signs": old}
    assert records["signing_key.rotate"]["actor"] == "operator"
    assert records["signing_key.retire"]["details"]["revoked_keys"] == 1
    assert len(records["signing_key.retire"]["details"]["revoked"]) == 1
    assert (records["signing_key.create"]["actor"], records["signing_key.create"]["resource"]) == (
        "platform",
        f"signingKey/{old}",
    )
    assert records["signing_key.create"]["details"] == {"before": None, "after": {"signs": old}}
    assert records["signing_key.retire"]["details"]["after"] == {"signs": new}


async def test_private_keys_are_encrypted_at_rest(profile: Profile) -> None:
    pem = new_private_key()
    async with hosted(profile, SERVICES) as host:
        kid = signed_with(await create_key(host.client(AuthenticationClient)))
    ((stored,),) = execute(profile, "select private_key from authentication.signing_key")
    assert stored.startswith("sealed:1:") and "PRIVATE" not in stored
    decrypted = EnvelopeEncryption(SECRET).decrypt(kid, stored)
    assert decrypted.startswith("-----BEGIN PRIVATE KEY-----")
    for name, secret in ((kid, OTHER_SECRET), ("other", SECRET)):
        with pytest.raises(WrongSecret):
            EnvelopeEncryption(secret).decrypt(name, stored)
    with pytest.raises(WrongSecret):
        EnvelopeEncryption(SECRET).decrypt(kid, stored[:-8] + "AAAAAAA=")
    assert EnvelopeEncryption(SECRET).encrypt("x", pem) != EnvelopeEncryption(SECRET).encrypt("x", pem)
    # Plain keys of the first release are encrypted at the next start, and still sign.
    execute(profile, "update authentication.signing_key set private_key = %s", decrypted)
    async with hosted(profile, SERVICES) as host:
        ((again,),) = execute(profile, "select private_key from authentication.signing_key")
        assert again.startswith("sealed:1:") and again != stored
        assert signed_with(await create_key(host.client(AuthenticationClient))) == kid


async def test_a_changed_secret_requires_the_former_secret_once(profile: Profile) -> None:
    async with hosted(profile, SERVICES) as host:
        kid = signed_with(await create_key(host.client(AuthenticationClient)))
    with pytest.raises(ConfigError) as caught:
        await Host(with_settings(profile, secret=OTHER_SECRET), "test", SERVICES).start()
    assert f"not the secret that encrypted the signing key {kid!r}" in caught.value.message
    assert OTHER_SECRET not in caught.value.message
    with_former = with_settings(profile, secret=OTHER_SECRET, former_secret=SECRET)
    for changed in (with_former, with_settings(profile, secret=OTHER_SECRET)):
        async with hosted(changed, SERVICES) as host:
            assert signed_with(await create_key(host.client(AuthenticationClient))) == kid
    (encrypted,) = audit_records(profile, "signing_key.seal")
    assert encrypted["resource"] == f"signingKey/{kid}"
    assert encrypted["details"] == {
        "before": {"sealed_under": "the former secret"},
        "after": {"sealed_under": "the secret"},
    }


async def test_reading_does_not_create_a_signing_key(profile: Profile) -> None:
    async with hosted(profile, SERVICES) as host:
        execute(profile, "delete from authentication.signing_key")
        client = host.client(AuthenticationClient)
        assert await states(client) == [] and await published(client) == set()
        assert execute(profile, "select kid from authentication.signing_key") == []


async def test_data_of_the_first_release_is_migrated(profile: Profile, caller: Principal) -> None:
    """Keys stay valid, desks get the permissions of their keys, and the signing key is encrypted."""
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
    ("secret", "message"),
    [
        ("", "is missing; generate one with"),
        ("short-Kd83", "has 10 characters; it needs 32"),
        ("kD8" * 400, "it can have 1024 at most"),
        ("changeme-changeme-changeme-changeme", "is a well-known placeholder"),
        ("This-is-my-SuperSecret-signing-value-42", "is a well-known placeholder"),
        ("my_password_for_the_production_gateway", "is a well-known placeholder"),
        ("a" * 40, "is too regular"),
        ("abcabdabcabdabcabdabcabdabcabdabcabd", "is too regular"),
        ("kD83jf02Lx" * 4, "is too regular"),
        ("abcdefghijklmnopqrstuvwxyz0123456789", "is too regular"),
        (f"{OTHER_SECRET}é{OTHER_SECRET}", "characters that are not printable ASCII"),
        (f"{OTHER_SECRET} \n", "characters that are not printable ASCII"),
    ],
)
async def test_the_service_does_not_start_with_a_weak_secret(profile: Profile, secret: str, message: str) -> None:
    host = Host(with_settings(profile, secret=secret), "test", SERVICES)
    with pytest.raises(ConfigError) as caught:
        await host.start()
    await host.stop(grace=0)
    assert message in caught.value.message and caught.value.message.startswith("authentication: secret: ")
    assert not secret or secret not in caught.value.message
    assert not secret or secret not in str(caught.value.__cause__)  # a log contains the cause


def test_random_secrets_are_accepted() -> None:
    for secret in (SECRET, OTHER_SECRET, "1f0c9b3e7a5d28460e8d7c6b5a493827", SECRET * 2 + OTHER_SECRET):
        assert weakness(secret) == ""


async def test_a_rotated_key_is_revoked_after_the_overlap(
    host: Host, client: AuthenticationClient, profile: Profile
) -> None:
    old = await create_key(client, requests_per_minute=7, ttl_seconds=86400)
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
        async with aclosing(client.watch_credentials(WatchCredentialsRequest())) as updates:
            async for credentials in updates:
                if list(credentials.revoked) == [old.key.id]:
                    break
        assert [key.id for key in (await client.list_keys(ListKeysRequest())).keys] == [new.key.id]


async def test_a_rotation_without_overlap_revokes_immediately(client: AuthenticationClient) -> None:
    old = await create_key(client)
    with acting_for(OPERATOR):
        await client.rotate_key(RotateKeyRequest(id=old.key.id))
        assert (await client.get_key(GetKeyRequest(id=old.key.id))).HasField("revoked_at")
        for seconds in (-1, 31 * 86400):
            with pytest.raises(InvalidRequest, match=f"overlap_seconds is {seconds}; it can be 0 to 2592000"):
                await client.rotate_key(RotateKeyRequest(id=old.key.id, overlap_seconds=seconds))


async def test_a_rotation_requires_permission_to_grant_the_scopes(client: AuthenticationClient) -> None:
    old = await create_key(client, scopes=["models:read", "models:invoke"])
    limited = replace(OPERATOR, key="key_poor", scopes=frozenset({"keys:write", "models:read"}))
    with acting_for(limited), pytest.raises(Forbidden, match="lacks the scope 'models:invoke'"):
        await client.rotate_key(RotateKeyRequest(id=old.key.id))
    with acting_for(replace(OPERATOR, org="acme")), pytest.raises(NotFound):
        await client.rotate_key(RotateKeyRequest(id=old.key.id))
    with acting_for(OPERATOR):
        await client.revoke_key(RevokeKeyRequest(id=old.key.id))
        with pytest.raises(Conflict, match="has expired, is revoked"):
            await client.rotate_key(RotateKeyRequest(id=old.key.id))


async def test_a_revocation_survives_a_restart(profile: Profile) -> None:
    async with hosted(profile, SERVICES) as host:
        client = host.client(AuthenticationClient)
        key = await create_key(client)
        with acting_for(OPERATOR):
            await client.revoke_key(RevokeKeyRequest(id=key.key.id))
    async with (
        hosted(profile, SERVICES) as host,
        aclosing(host.client(AuthenticationClient).watch_credentials(WatchCredentialsRequest())) as updates,
    ):
        assert list((await anext(updates)).revoked) == [key.key.id]
