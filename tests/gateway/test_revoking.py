"""A key that is revoked takes along what was made with it, at any depth; and who made which key stays on record."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from drw.api.gateway.v1.authentication_pb2 import (
    ComparePrincipalsRequest,
    ComparePrincipalsResponse,
    DeleteCertificateRequest,
    DeleteIssuerRequest,
    ListKeysRequest,
    PutCertificateRequest,
    PutDeskRequest,
    PutIssuerRequest,
    RevokeKeyRequest,
)
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.gateway.authentication.keys import lineage
from drw.kernel.errors import Conflict, InvalidRequest
from drw.kernel.rpc.context import SCOPES, acting_for
from drw.kernel.runtime.host import Host
from drw.kernel.runtime.settings import Profile
from drw.local.first_key import OPERATOR
from gateway.test_issuers import ec_key, key_set
from support.hosting import hosted
from support.keys import issued, rotated, vouch
from support.locks import waiting

SERVICES = ["authentication", "rate_limiting"]
MAKER = ("keys:write", "keys:read")
Relation = ComparePrincipalsResponse.Relation


@pytest.fixture
async def host(profile: Profile) -> AsyncIterator[Host]:
    async with hosted(profile, SERVICES) as found:
        with acting_for(OPERATOR):
            await found.client(AuthenticationClient).put_desk(
                PutDeskRequest(org="acme", name="ops", scopes=sorted(SCOPES))
            )
        yield found


async def revoke(host, key, by=OPERATOR, **fields):
    org: dict[str, Any] = {} if by.org == "acme" else {"org": "acme"}
    with acting_for(by):
        return await host.client(AuthenticationClient).revoke_key(RevokeKeyRequest(id=key.key, **org, **fields))


async def good(host, *keys):
    """Return which of these keys are good, in their order."""
    with acting_for(OPERATOR):
        found = await host.client(AuthenticationClient).list_keys(ListKeysRequest(org="acme", page_size=1000))
    there = {key.id for key in found.keys}
    return [key.key in there for key in keys]


def recorded(profile, action):
    with psycopg.connect(profile.postgres) as connection:
        rows = connection.execute("select record from audit.inbox order by id").fetchall()
    return {r["resource"]: r["details"] for (row,) in rows if (r := json.loads(row))["action"] == action}


async def test_keys_created_with_a_revoked_key_are_revoked_at_any_depth(host: Host, profile: Profile) -> None:
    key, other = [await issued(host, *MAKER) for _ in range(2)]
    child = await issued(host, *MAKER, by=key)
    grandchild = await issued(host, *MAKER, by=child)
    successor = await rotated(host, grandchild)
    heir = await issued(host, *MAKER, by=successor)
    taken = await rotated(host, other, by=key)  # whoever rotates a key has the new secret
    bystander = await issued(host, *MAKER, by=other)
    made = [child, grandchild, successor, heir, taken]
    answer = await revoke(host, key)
    assert sorted(answer.revoked_keys) == sorted(one.key for one in made) and answer.kept_keys == 0
    assert await good(host, key, *made) == [False] * 6
    assert await good(host, other, bystander) == [True, True]
    audited = recorded(profile, "key.revoke")
    assert audited.keys() == {f"key/{one.key}" for one in (key, *made)}
    assert audited[f"key/{heir.key}"]["because"] == f"it was made with {key.key}"
    again = await revoke(host, key)
    assert (list(again.revoked_keys), again.revoked_at) == ([], answer.revoked_at)


async def test_children_are_kept_on_request_and_revoked_by_a_second_revocation(host: Host) -> None:
    key = await issued(host, *MAKER)
    child = await issued(host, *MAKER, by=key)
    assert list((await revoke(host, key, keep_children=True)).revoked_keys) == []
    assert await good(host, key, child) == [False, True]
    assert list((await revoke(host, key)).revoked_keys) == [child.key]
    assert await good(host, child) == [False]


async def test_a_successor_does_not_end_itself(host: Host) -> None:
    key = await issued(host, *MAKER)
    planted = await issued(host, *MAKER, by=key)
    successor = await rotated(host, key)
    own = await issued(host, *MAKER, by=successor)
    assert list((await revoke(host, key, by=successor)).revoked_keys) == [planted.key]
    assert await good(host, key, planted, successor, own) == [False, False, True, True]
    # From outside it is one with the key, and so is what it made as its predecessor.
    late = await issued(host, *MAKER, by=successor)
    third = await rotated(host, successor)
    assert sorted((await revoke(host, third)).revoked_keys) == sorted([own.key, late.key])


async def test_rotating_a_leaked_key_for_its_holder_keeps_the_successor(host: Host) -> None:
    admin = await issued(host, "org:admin", *MAKER)
    leaked = await issued(host, *MAKER)
    planted = await issued(host, *MAKER, by=leaked)
    successor = await rotated(host, leaked, by=admin, overlap_seconds=0)
    assert await good(host, leaked, planted) == [False, True]  # a rotation alone ends no others
    assert list((await revoke(host, leaked, by=admin)).revoked_keys) == [planted.key]
    assert await good(host, successor, admin) == [True, True]


async def test_revoking_descendants_requires_permission_for_each(host: Host) -> None:
    admin = await issued(host, "org:admin", *MAKER)
    near, far = [await issued(host, *MAKER, by=admin, desk=desk) for desk in ("research", "ops")]
    below = await issued(host, *MAKER, by=far, desk="ops")
    colleague = await issued(host, *MAKER)
    answer = await revoke(host, admin, by=colleague)
    assert (list(answer.revoked_keys), answer.kept_keys) == ([near.key], 1)
    assert await good(host, far, below) == [True, True]
    assert sorted((await revoke(host, admin)).revoked_keys) == sorted([far.key, below.key])


async def test_a_key_that_is_being_revoked_makes_none(host: Host, profile: Profile) -> None:
    """The one waits for the other: a child is there and revoked, or is refused."""
    key = await issued(host, *MAKER)
    with psycopg.connect(profile.postgres) as connection:
        connection.execute("update authentication.key set revoked_at = now() where id = %s", (key.key,))
        making = asyncio.create_task(issued(host, *MAKER, by=key))
        await waiting(profile, 1)
        connection.commit()
        with pytest.raises(Conflict, match="was revoked just now"):
            await making
    assert (await revoke(host, key)).kept_keys == 0


async def test_ten_thousand_children_are_revoked_at_once(host: Host, profile: Profile) -> None:
    key = await issued(host, *MAKER)
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
    answer = await revoke(host, key)
    assert len(answer.revoked_keys) == 9999
    assert len(recorded(profile, "key.revoke")) == 10_000


async def test_keys_of_an_issuer_and_of_a_certificate_end_with_them(host: Host) -> None:
    authentication = host.client(AuthenticationClient)
    with acting_for(OPERATOR):
        for name in ("corp", "other"):
            await authentication.put_issuer(
                PutIssuerRequest(
                    name=name, issuer=f"https://{name}", org="acme", audiences=["a"], jwks=key_set(ec_key("k0"))
                )
            )
        for name in ("runner", "spare"):
            wish = PutCertificateRequest(
                name=name, san=f"spiffe://{name}/x", org="acme", desk="ops", scopes=list(MAKER)
            )
            await authentication.put_certificate(wish)
    ids = ["oidc:corp:ann", "oidc:corp:bob", "cert:runner", "oidc:other:ann", "cert:spare"]
    outside = await issued(host, *MAKER)
    made = [await issued(host, *MAKER, by=replace(outside, key=id)) for id in ids]
    below = await issued(host, *MAKER, by=made[0])
    with acting_for(OPERATOR):
        await authentication.delete_issuer(DeleteIssuerRequest(name="corp"))
        await authentication.delete_certificate(DeleteCertificateRequest(name="runner"))
        await authentication.delete_issuer(DeleteIssuerRequest(name="other", keep_children=True))
        await authentication.delete_certificate(DeleteCertificateRequest(name="spare", keep_children=True))
    assert await good(host, *made, below) == [False, False, False, True, True, False]


async def test_a_holder_whose_issuer_or_certificate_is_deleted_makes_no_key(host: Host, profile: Profile) -> None:
    """Its token or certificate may be taken for a moment yet, and whoever deletes does not see what comes later."""
    maker = await issued(host, *MAKER)
    delete_issuer = b"delete from authentication.issuer where name = 'corp'"
    delete_certificate = b"delete from authentication.certificate where name = 'runner'"
    for delete, holder in ((delete_issuer, "oidc:corp:ann"), (delete_certificate, "cert:runner")):
        await vouch(host, holder)
        outside = replace(maker, key=holder)
        assert await good(host, await issued(host, *MAKER, by=outside)) == [True]
        with psycopg.connect(profile.postgres) as connection:
            connection.execute(delete)
            making = asyncio.create_task(issued(host, *MAKER, by=outside))
            await waiting(profile, 1)
            connection.commit()
        with pytest.raises(Conflict, match=f"of '{holder}', who sent this request, was deleted just now"):
            await making


async def compare(host, who, *others):
    with acting_for(who):
        request = ComparePrincipalsRequest(others=[one.key for one in others])
        return await host.client(AuthenticationClient).compare_principals(request)


async def test_principals_are_compared_by_the_creators_of_their_keys(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = await issued(host, "org:admin", *MAKER, desk="ops")
    ann, bob = [await issued(host, *MAKER, by=admin) for _ in range(2)]
    again, child = await rotated(host, ann), await issued(host, *MAKER, by=ann)
    nephew = await issued(host, *MAKER, by=again)
    nobody, cert = replace(ann, key="key_none"), replace(ann, key="cert:x")
    found = await compare(host, ann, admin, bob, again, child, nephew, nobody, cert, ann)
    assert list(found.relations) == [
        Relation.SAME, Relation.DIFFERENT, Relation.SAME_KEY, Relation.SAME, Relation.SAME, Relation.NO_SUCH_KEY,
        Relation.DIFFERENT, Relation.SAME_KEY,
    ]  # fmt: skip
    assert (found.principal, found.complete) == (ann.key, True)
    assert list(found.desks) == ["acme/ops", "acme/research"]
    assert list((await compare(host, admin, ann, child)).relations) == [Relation.ISSUED_BY_CALLER] * 2
    assert (await compare(host, again)).principal == ann.key
    unknown = await compare(host, nobody, ann)
    assert (unknown.principal, unknown.complete, list(unknown.relations)) == ("", False, [0])
    with pytest.raises(InvalidRequest, match="at most 100"):
        await compare(host, ann, *[bob] * 101)
    # Keys that rotate each other, and more ancestors than are looked at.
    await rotated(host, bob, by=child)
    await rotated(host, child, by=bob)
    assert list((await compare(host, bob, nephew)).relations) == [Relation.SAME]
    monkeypatch.setattr(lineage, "MAX_ANCESTORS", 1)
    far = await issued(host, *MAKER)
    assert list((await compare(host, far, admin)).relations) == [Relation.RELATION_UNSPECIFIED]


async def test_the_record_of_the_last_release_is_taken_over(profile: Profile) -> None:
    """What the table of keys says of makers and successors becomes lineage."""
    async with hosted(profile, SERVICES) as host:
        admin = await issued(host, "org:admin", *MAKER)
        key, other = [await issued(host, *MAKER, by=admin) for _ in range(2)]
        successor = await rotated(host, await rotated(host, key))
        child = await issued(host, *MAKER, by=key)
        before = lines(profile)
    with psycopg.connect(profile.postgres) as connection:
        connection.execute("drop table authentication.key_lineage")
        connection.execute("drop index authentication.key_maker")
        connection.execute("delete from authentication.migration where name like '0005%'")
    async with hosted(profile, SERVICES) as host:
        assert lines(profile) == before
        relations = (await compare(host, successor, key, other, child)).relations
        assert list(relations) == [Relation.SAME_KEY, Relation.DIFFERENT, Relation.SAME]


def lines(profile):
    query = """
        select key, root, predecessor, maker, authority,
            case when maker <> 'operator' then maker_org || '/' || maker_desk end
        from authentication.key_lineage order by key
    """
    with psycopg.connect(profile.postgres) as connection:
        return connection.execute(query).fetchall()
