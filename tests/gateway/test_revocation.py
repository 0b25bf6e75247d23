"""Revocation of keys with their descendants, and the lineage of keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import psycopg
import pytest

from drw.api.gateway.v1.authentication_pb2 import (
    ComparePrincipalsRequest,
    ComparePrincipalsResponse,
    DeleteCertificateRequest,
    DeleteIssuerRequest,
    Key,
    ListKeysRequest,
    PutCertificateRequest,
    PutDeskRequest,
    PutIssuerRequest,
    RevokeKeyRequest,
)
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.gateway.authentication.keys import lineage
from drw.kernel.errors import Conflict, InvalidRequest
from drw.kernel.rpc.context import SCOPES, Principal, acting_for
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile
from drw.local.first_key import OPERATOR
from gateway.test_issuers import ec_key, key_set
from support.database.audit_records import audit_records
from support.database.locks import until_locks_wait
from support.gateway.keys import issued, register_identity, rotated
from support.hosting import hosted
from support.json_types import Json, JsonObject

SERVICES = ["authentication", "rate_limiting"]
CREATOR_SCOPES = ("keys:write", "keys:read")
Relation = ComparePrincipalsResponse.Relation


@pytest.fixture
async def host(profile: Profile) -> AsyncIterator[Host]:
    async with hosted(profile, SERVICES) as running:
        with acting_for(OPERATOR):
            await running.client(AuthenticationClient).put_desk(
                PutDeskRequest(org="acme", name="ops", scopes=sorted(SCOPES))
            )
        yield running


async def revoke(host: Host, key: Principal, by: Principal = OPERATOR, **fields: Json) -> Key:
    org: JsonObject = {} if by.org == "acme" else {"org": "acme"}
    with acting_for(by):
        return await host.client(AuthenticationClient).revoke_key(RevokeKeyRequest(id=key.key, **org, **fields))


async def is_valid(host: Host, *keys: Principal) -> list[bool]:
    """Return whether each of these keys is valid."""
    with acting_for(OPERATOR):
        response = await host.client(AuthenticationClient).list_keys(ListKeysRequest(org="acme", page_size=1000))
    valid = {key.id for key in response.keys}
    return [key.key in valid for key in keys]


def recorded(profile: Profile, action: str) -> JsonObject:
    return {record["resource"]: record["details"] for record in audit_records(profile, action)}


async def test_keys_created_with_a_revoked_key_are_revoked_at_any_depth(host: Host, profile: Profile) -> None:
    key, other = [await issued(host, *CREATOR_SCOPES) for _ in range(2)]
    child = await issued(host, *CREATOR_SCOPES, by=key)
    grandchild = await issued(host, *CREATOR_SCOPES, by=child)
    successor = await rotated(host, grandchild)
    heir = await issued(host, *CREATOR_SCOPES, by=successor)
    rotated_key = await rotated(host, other, by=key)  # the caller of a rotation receives the secret
    bystander = await issued(host, *CREATOR_SCOPES, by=other)
    expected = [child, grandchild, successor, heir, rotated_key]
    response = await revoke(host, key)
    assert sorted(response.revoked_keys) == sorted(one.key for one in expected) and response.kept_keys == 0
    assert await is_valid(host, key, *expected) == [False] * 6
    assert await is_valid(host, other, bystander) == [True, True]
    audited = recorded(profile, "key.revoke")
    assert audited.keys() == {f"key/{one.key}" for one in (key, *expected)}
    assert audited[f"key/{heir.key}"]["because"] == f"it was created with {key.key}"
    again = await revoke(host, key)
    assert (list(again.revoked_keys), again.revoked_at) == ([], response.revoked_at)


async def test_keep_children_keeps_created_keys_until_a_second_revocation(host: Host) -> None:
    key = await issued(host, *CREATOR_SCOPES)
    child = await issued(host, *CREATOR_SCOPES, by=key)
    assert list((await revoke(host, key, keep_children=True)).revoked_keys) == []
    assert await is_valid(host, key, child) == [False, True]
    assert list((await revoke(host, key)).revoked_keys) == [child.key]
    assert await is_valid(host, child) == [False]


async def test_a_successor_that_revokes_its_predecessor_stays_valid(host: Host) -> None:
    key = await issued(host, *CREATOR_SCOPES)
    planted = await issued(host, *CREATOR_SCOPES, by=key)
    successor = await rotated(host, key)
    created = await issued(host, *CREATOR_SCOPES, by=successor)
    assert list((await revoke(host, key, by=successor)).revoked_keys) == [planted.key]
    assert await is_valid(host, key, planted, successor, created) == [False, False, True, True]
    # Revoked by another caller, the successor counts as the same holder as its predecessor.
    later = await issued(host, *CREATOR_SCOPES, by=successor)
    third = await rotated(host, successor)
    assert sorted((await revoke(host, third)).revoked_keys) == sorted([created.key, later.key])


async def test_rotating_a_leaked_key_for_its_holder_keeps_the_successor(host: Host) -> None:
    admin = await issued(host, "org:admin", *CREATOR_SCOPES)
    leaked = await issued(host, *CREATOR_SCOPES)
    planted = await issued(host, *CREATOR_SCOPES, by=leaked)
    successor = await rotated(host, leaked, by=admin, overlap_seconds=0)
    assert await is_valid(host, leaked, planted) == [False, True]  # a rotation alone revokes no other keys
    assert list((await revoke(host, leaked, by=admin)).revoked_keys) == [planted.key]
    assert await is_valid(host, successor, admin) == [True, True]


async def test_revoking_descendants_requires_permission_for_each(host: Host) -> None:
    admin = await issued(host, "org:admin", *CREATOR_SCOPES)
    same_desk, other_desk = [await issued(host, *CREATOR_SCOPES, by=admin, desk=desk) for desk in ("research", "ops")]
    below = await issued(host, *CREATOR_SCOPES, by=other_desk, desk="ops")
    colleague = await issued(host, *CREATOR_SCOPES)
    response = await revoke(host, admin, by=colleague)
    assert (list(response.revoked_keys), response.kept_keys) == ([same_desk.key], 1)
    assert await is_valid(host, other_desk, below) == [True, True]
    assert sorted((await revoke(host, admin)).revoked_keys) == sorted([other_desk.key, below.key])


async def test_a_key_that_is_being_revoked_cannot_create_keys(host: Host, profile: Profile) -> None:
    """Creation waits for the revocation, and fails."""
    key = await issued(host, *CREATOR_SCOPES)
    with psycopg.connect(profile.postgres) as connection:
        connection.execute("update authentication.key set revoked_at = now() where id = %s", (key.key,))
        making = asyncio.create_task(issued(host, *CREATOR_SCOPES, by=key))
        await until_locks_wait(profile, 1)
        connection.commit()
        with pytest.raises(Conflict, match="was revoked just now"):
            await making
    assert (await revoke(host, key)).kept_keys == 0


async def test_ten_thousand_children_are_revoked_at_once(host: Host, profile: Profile) -> None:
    key = await issued(host, *CREATOR_SCOPES)
    with psycopg.connect(profile.postgres) as connection:
        connection.execute(
            """
            insert into authentication.key (id, name, org, desk, scopes, last_characters, created_at, expires_at,
                requests_per_minute, created_by)
            select 'key_' || n, 'n', 'acme', 'research', '{keys:write}', 'x', now(), now() + interval '1 day', 0,
                case when n % 100 = 0 then %s else 'key_' || n / 100 * 100 end from generate_series(1, 9999) n
            """.replace("% 100", "%% 100"),
            (key.key,),
        )
        connection.execute("update authentication.key set created_by = %s where created_by = 'key_0'", (key.key,))
    response = await revoke(host, key)
    assert len(response.revoked_keys) == 9999
    assert len(recorded(profile, "key.revoke")) == 10_000


async def test_deleting_an_issuer_or_certificate_revokes_its_created_keys(host: Host) -> None:
    authentication = host.client(AuthenticationClient)
    with acting_for(OPERATOR):
        for name in ("corp", "other"):
            await authentication.put_issuer(
                PutIssuerRequest(
                    name=name, issuer=f"https://{name}", org="acme", audiences=["a"], jwks=key_set(ec_key("k0"))
                )
            )
        for name in ("runner", "spare"):
            request = PutCertificateRequest(
                name=name, san=f"spiffe://{name}/x", org="acme", desk="ops", scopes=list(CREATOR_SCOPES)
            )
            await authentication.put_certificate(request)
    caller_ids = ["oidc:corp:ann", "oidc:corp:bob", "cert:runner", "oidc:other:ann", "cert:spare"]
    creator = await issued(host, *CREATOR_SCOPES)
    created = [await issued(host, *CREATOR_SCOPES, by=replace(creator, key=id)) for id in caller_ids]
    grandchild = await issued(host, *CREATOR_SCOPES, by=created[0])
    with acting_for(OPERATOR):
        await authentication.delete_issuer(DeleteIssuerRequest(name="corp"))
        await authentication.delete_certificate(DeleteCertificateRequest(name="runner"))
        await authentication.delete_issuer(DeleteIssuerRequest(name="other", keep_children=True))
        await authentication.delete_certificate(DeleteCertificateRequest(name="spare", keep_children=True))
    assert await is_valid(host, *created, grandchild) == [False, False, False, True, True, False]


async def test_a_caller_of_a_deleted_issuer_or_certificate_cannot_create_keys(host: Host, profile: Profile) -> None:
    """Data planes can still accept the token or certificate for a moment."""
    template = await issued(host, *CREATOR_SCOPES)
    delete_issuer = b"delete from authentication.issuer where name = 'corp'"
    delete_certificate = b"delete from authentication.certificate where name = 'runner'"
    for delete, caller_id in ((delete_issuer, "oidc:corp:ann"), (delete_certificate, "cert:runner")):
        await register_identity(host, caller_id)
        caller = replace(template, key=caller_id)
        assert await is_valid(host, await issued(host, *CREATOR_SCOPES, by=caller)) == [True]
        with psycopg.connect(profile.postgres) as connection:
            connection.execute(delete)
            making = asyncio.create_task(issued(host, *CREATOR_SCOPES, by=caller))
            await until_locks_wait(profile, 1)
            connection.commit()
        with pytest.raises(Conflict, match=f"of '{caller_id}', the caller, was deleted just now"):
            await making


async def compare(host: Host, principal: Principal, *others: Principal) -> ComparePrincipalsResponse:
    with acting_for(principal):
        request = ComparePrincipalsRequest(others=[one.key for one in others])
        return await host.client(AuthenticationClient).compare_principals(request)


async def test_principals_are_compared_by_the_creators_of_their_keys(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = await issued(host, "org:admin", *CREATOR_SCOPES, desk="ops")
    ann, bob = [await issued(host, *CREATOR_SCOPES, by=admin) for _ in range(2)]
    successor, child = await rotated(host, ann), await issued(host, *CREATOR_SCOPES, by=ann)
    nephew = await issued(host, *CREATOR_SCOPES, by=successor)
    nobody, cert = replace(ann, key="key_none"), replace(ann, key="cert:x")
    comparison = await compare(host, ann, admin, bob, successor, child, nephew, nobody, cert, ann)
    assert list(comparison.relations) == [
        Relation.SAME, Relation.DIFFERENT, Relation.SAME_KEY, Relation.SAME, Relation.SAME, Relation.NO_SUCH_KEY,
        Relation.DIFFERENT, Relation.SAME_KEY,
    ]  # fmt: skip
    assert (comparison.principal, comparison.complete) == (ann.key, True)
    assert list(comparison.desks) == ["acme/ops", "acme/research"]
    assert list((await compare(host, admin, ann, child)).relations) == [Relation.ISSUED_BY_CALLER] * 2
    assert (await compare(host, successor)).principal == ann.key
    unknown = await compare(host, nobody, ann)
    assert (unknown.principal, unknown.complete, list(unknown.relations)) == ("", False, [0])
    with pytest.raises(InvalidRequest, match="at most 100"):
        await compare(host, ann, *[bob] * 101)
    # Keys that rotate each other, and more ancestors than the maximum.
    await rotated(host, bob, by=child)
    await rotated(host, child, by=bob)
    assert list((await compare(host, bob, nephew)).relations) == [Relation.SAME]
    monkeypatch.setattr(lineage, "MAX_ANCESTORS", 1)
    far = await issued(host, *CREATOR_SCOPES)
    assert list((await compare(host, far, admin)).relations) == [Relation.RELATION_UNSPECIFIED]


async def test_lineage_is_migrated_from_the_table_of_keys(profile: Profile) -> None:
    """The migration derives the lineage from creators and successors in the table of keys."""
    async with hosted(profile, SERVICES) as host:
        admin = await issued(host, "org:admin", *CREATOR_SCOPES)
        key, other = [await issued(host, *CREATOR_SCOPES, by=admin) for _ in range(2)]
        successor = await rotated(host, await rotated(host, key))
        child = await issued(host, *CREATOR_SCOPES, by=key)
        before = lineage_rows(profile)
    with psycopg.connect(profile.postgres) as connection:
        connection.execute("drop table authentication.key_lineage")
        connection.execute("drop index authentication.key_maker")
        connection.execute("delete from authentication.migration where name like '0005%'")
    async with hosted(profile, SERVICES) as host:
        assert lineage_rows(profile) == before
        relations = (await compare(host, successor, key, other, child)).relations
        assert list(relations) == [Relation.SAME_KEY, Relation.DIFFERENT, Relation.SAME]


def lineage_rows(profile: Profile) -> list[tuple[str, str, str | None, str, str, str | None]]:
    query = """
        select key, root, predecessor, maker, authority,
            case when maker <> 'operator' then maker_org || '/' || maker_desk end
        from authentication.key_lineage order by key
    """
    with psycopg.connect(profile.postgres) as connection:
        return connection.execute(query).fetchall()
