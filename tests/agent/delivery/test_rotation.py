"""The real services behind a real Envoy: signing keys change under load, and everything is reached over REST."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import jwt
import psycopg
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from agent.data_plane import Front
from drw.api.gateway.v1.authentication_pb2 import (
    PutDeskRequest,
    RetireSigningKeyRequest,
    RotateSigningKeyRequest,
)
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.kernel.rpc.context import SCOPES, acting_for
from drw.kernel.rpc.transport import Channels
from drw.local.credentials import write
from drw.local.first_key import OPERATOR, ensure_key
from drw.local.paths import PlatformPaths

LIST = "/v1/models"


def signed_with(secret: str) -> str:
    return jwt.get_unverified_header(secret)["kid"]


async def test_no_good_key_fails_while_signing_keys_change(front: Front) -> None:
    signing = front.host.client(AuthenticationClient)
    first, done, seen = await front.key("models:read", requests_per_minute=1_000_000), asyncio.Event(), []

    async def knock() -> None:
        async with front.client(first) as client:
            while not done.is_set():
                seen.append((await client.get(LIST)).status_code)

    async def fresh() -> None:
        while not done.is_set():  # keys that are used as soon as there are any
            async with front.client(await front.key("models:read")) as client:
                seen.append((await client.get(LIST)).status_code)

    async with asyncio.TaskGroup() as tasks:
        for work in (knock, knock, fresh):
            tasks.create_task(work())
        for _ in range(3):
            before = await front.wanted()
            with acting_for(OPERATOR):
                new = (await signing.rotate_signing_key(RotateSigningKeyRequest())).kid
            await front.settled(before)
            with psycopg.connect(front.profile.postgres) as connection:  # as if the time until it signs had gone by
                query = "update authentication.signing_key set signs_from = now() where kid = %s"
                connection.execute(query, (new,))
            assert signed_with(await front.key("models:read")) == new
            started = len(seen)
            while len(seen) < started + 20:
                await asyncio.sleep(0)
        done.set()
    assert set(seen) == {200}
    # What the first one signed is bad once it is retired, and nothing else.
    last, before = await front.key("models:read"), await front.wanted()
    with acting_for(OPERATOR):
        await signing.retire_signing_key(RetireSigningKeyRequest(kid=signed_with(first)))
    await front.settled(before)
    for secret, status in ((first, 401), (last, 200)):
        async with front.client(secret) as client:
            answer = await client.get(LIST)
        assert answer.status_code == status
        if status == 401:
            assert answer.json()["error"]["code"] == "invalid_api_key"


async def test_orgs_desks_issuers_and_oneself_over_rest(front: Front) -> None:
    theirs = ec.generate_private_key(ec.SECP256R1())
    public = {**json.loads(ECAlgorithm.to_jwk(theirs.public_key())), "kid": "e1", "use": "sig"}
    async with front.client(await front.key(*SCOPES)) as admin:

        async def put(path: str, **body) -> dict:
            answer = await admin.put(f"/api/v1/{path}", json=body)
            assert answer.status_code == 200, answer.text
            return answer.json()

        await put("orgs/firm", scopes=["models:read", "keys:read"], walls=["rates"])
        await put("desks/rates", org="firm", scopes=["models:read", "keys:read"], walls=["rates"])
        wish = {"org": "firm", "desk": "rates", "name": "n", "scopes": ["keys:read"], "walls": ["rates"]}
        answer = await admin.post("/api/v1/keys", json=wish)
        async with front.client(answer.json()["secret"]) as walled:
            me = (await walled.get("/api/v1/me")).json()
            assert (me["org"], me["desk"], me["walls"]) == ("firm", "rates", ["rates"])
        for odd in ("desks?page_token=%00", "orgs?page_token=A"):
            assert (await admin.get(f"/api/v1/{odd}")).status_code == 400
        for odd in ("desks?org=%00&page_size=1", "keys/%01", "issuers/%7F", "desks/x?org=%00"):
            assert (await admin.get(f"/api/v1/{odd}")).status_code in (200, 400, 404)
        before = await front.wanted()
        made = await put(
            "issuers/idp",
            issuer="https://idp.example",
            audiences=["drw"],
            org="firm",
            jwks=json.dumps({"keys": [public]}),
            claims={"walls": "walls"},
            roles=[{"name": "reader", "scopes": ["models:read", "keys:read"]}],
        )
        assert made["kids"] == ["e1"]
        await front.settled(before)
        assert [o["name"] for o in (await admin.get("/api/v1/orgs")).json()["orgs"]] == ["firm", "local"]
        assert (await admin.get("/api/v1/desks?org=firm")).json()["desks"][0]["name"] == "rates"
        me = (await admin.get("/api/v1/me")).json()
        assert (me["org"], me["desk"], me["identified_by"]) == ("local", "research", "KEY")
        assert me["expires_at"]
        answer = await admin.put("/api/v1/desks/rates", json={"org": "firm", "scopes": ["models:fly"]})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "scopes")
        (signing,) = (await admin.get("/api/v1/signingKeys")).json()["signing_keys"]
        assert (signing["state"], "private_key" in signing) == ("SIGNS", False)

        claims = {"iss": "https://idp.example", "aud": "drw", "sub": "alice", "exp": int(time.time()) + 600}
        claims |= {"desk": "rates", "roles": ["reader"], "walls": ["rates"]}
        async with front.client(jwt.encode(claims, theirs, "ES256", headers={"kid": "e1"})) as alice:
            me = (await alice.get("/api/v1/me")).json()
            assert (me["key"], me["identified_by"], me["walls"]) == ("oidc:idp:alice", "ISSUER", ["rates"])
            assert [d["name"] for d in (await alice.get("/api/v1/desks")).json()["desks"]] == ["rates"]
            for path in ("desks?org=local", "orgs", "issuers", "certificates", "signingKeys"):
                answer = await alice.get(f"/api/v1/{path}")
                assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
            # The desk becomes narrower: so do its callers, at once.
            before = await front.wanted()
            with acting_for(OPERATOR):
                narrow = PutDeskRequest(org="firm", name="rates", scopes=["keys:read"], revoke_wider=True)
                await front.host.client(AuthenticationClient).put_desk(narrow)
            await front.settled(before)
            me = (await alice.get("/api/v1/me")).json()
            assert (me["scopes"], me["walls"]) == (["keys:read"], [])
            assert (await alice.get(LIST)).status_code == 403
            before = await front.wanted()
            assert (await admin.delete("/api/v1/issuers/idp")).status_code == 200
            await front.settled(before)
            assert (await alice.get("/api/v1/me")).status_code == 401
    async with front.client() as nobody:
        assert (await nobody.get("/api/v1/me")).status_code == 401


async def test_the_first_key_may_do_everything_and_is_made_once(front: Front, tmp_path: Path) -> None:
    layout, channels = PlatformPaths(tmp_path / "data"), Channels()
    layout.data.mkdir()

    async def kept() -> str:
        await ensure_key(layout, front.profile, channels)
        return json.loads(layout.credentials.read_text())["api_key"]

    try:
        first = await kept()
        assert await kept() == first
        narrow = await front.key("models:read", "keys:read")  # as a release with fewer scopes would have made it
        write(layout.credentials, front.url, narrow)
        again = await kept()
        assert again not in (first, narrow)
        for secret, scopes in ((again, len(SCOPES)), (narrow, 2)):
            async with front.client(secret) as client:
                assert len((await client.get("/api/v1/me")).json()["scopes"]) == scopes
        # Its org and desk become whole again where somebody narrowed them.
        own = PutDeskRequest(name="research", scopes=["keys:read"], revoke_wider=True)
        before = await front.wanted()
        with acting_for(OPERATOR):
            await front.host.client(AuthenticationClient).put_desk(own)
        await front.settled(before)
        assert await kept() not in (first, again, narrow)
    finally:
        await channels.close()
