"""Signing key rotation under load, and identity management over REST, through a real Envoy."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import jwt
import psycopg
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from agent.data_plane import GatewayHarness
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
from support.json_types import Json, JsonObject

LIST = "/v1/models"


def signing_key_id(secret: str) -> str:
    return jwt.get_unverified_header(secret)["kid"]


async def test_signing_key_rotation_rejects_no_valid_key(gateway: GatewayHarness) -> None:
    signing = gateway.host.client(AuthenticationClient)
    first, done, statuses = await gateway.create_key("models:read", requests_per_minute=1_000_000), asyncio.Event(), []

    async def send_requests() -> None:
        async with gateway.client(first) as client:
            while not done.is_set():
                statuses.append((await client.get(LIST)).status_code)

    async def use_new_keys() -> None:
        while not done.is_set():  # each key is used as soon as it exists
            async with gateway.client(await gateway.create_key("models:read")) as client:
                statuses.append((await client.get(LIST)).status_code)

    async with asyncio.TaskGroup() as tasks:
        for work in (send_requests, send_requests, use_new_keys):
            tasks.create_task(work())
        for _ in range(3):
            before = await gateway.desired_version()
            with acting_for(OPERATOR):
                new = (await signing.rotate_signing_key(RotateSigningKeyRequest())).kid
            await gateway.wait_until_applied(before)
            with psycopg.connect(gateway.profile.postgres) as connection:  # skip the wait until it signs
                query = "update authentication.signing_key set signs_from = now() where kid = %s"
                connection.execute(query, (new,))
            assert signing_key_id(await gateway.create_key("models:read")) == new
            started = len(statuses)
            while len(statuses) < started + 20:
                await asyncio.sleep(0)
        done.set()
    assert set(statuses) == {200}
    # Retiring the first signing key invalidates what it signed and nothing else.
    last, before = await gateway.create_key("models:read"), await gateway.desired_version()
    with acting_for(OPERATOR):
        await signing.retire_signing_key(RetireSigningKeyRequest(kid=signing_key_id(first)))
    await gateway.wait_until_applied(before)
    for secret, status in ((first, 401), (last, 200)):
        async with gateway.client(secret) as client:
            answer = await client.get(LIST)
        assert answer.status_code == status
        if status == 401:
            assert answer.json()["error"]["code"] == "invalid_api_key"


async def test_orgs_desks_issuers_and_the_own_identity_over_rest(gateway: GatewayHarness) -> None:
    issuer_key = ec.generate_private_key(ec.SECP256R1())
    public = {**json.loads(ECAlgorithm.to_jwk(issuer_key.public_key())), "kid": "e1", "use": "sig"}
    async with gateway.client(await gateway.create_key(*SCOPES)) as admin:

        async def put(path: str, **body: Json) -> JsonObject:
            answer = await admin.put(f"/api/v1/{path}", json=body)
            assert answer.status_code == 200, answer.text
            return answer.json()

        await put("orgs/firm", scopes=["models:read", "keys:read"], walls=["rates"])
        await put("desks/rates", org="firm", scopes=["models:read", "keys:read"], walls=["rates"])
        key_request = {"org": "firm", "desk": "rates", "name": "n", "scopes": ["keys:read"], "walls": ["rates"]}
        answer = await admin.post("/api/v1/keys", json=key_request)
        async with gateway.client(answer.json()["secret"]) as walled_client:
            me = (await walled_client.get("/api/v1/me")).json()
            assert (me["org"], me["desk"], me["walls"]) == ("firm", "rates", ["rates"])
        for path in ("desks?page_token=%00", "orgs?page_token=A"):
            assert (await admin.get(f"/api/v1/{path}")).status_code == 400
        for path in ("desks?org=%00&page_size=1", "keys/%01", "issuers/%7F", "desks/x?org=%00"):
            assert (await admin.get(f"/api/v1/{path}")).status_code in (200, 400, 404)
        before = await gateway.desired_version()
        issuer = await put(
            "issuers/idp",
            issuer="https://idp.example",
            audiences=["drw"],
            org="firm",
            jwks=json.dumps({"keys": [public]}),
            claims={"walls": "walls"},
            roles=[{"name": "reader", "scopes": ["models:read", "keys:read"]}],
        )
        assert issuer["kids"] == ["e1"]
        await gateway.wait_until_applied(before)
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
        async with gateway.client(jwt.encode(claims, issuer_key, "ES256", headers={"kid": "e1"})) as alice:
            me = (await alice.get("/api/v1/me")).json()
            assert (me["key"], me["identified_by"], me["walls"]) == ("oidc:idp:alice", "ISSUER", ["rates"])
            assert [d["name"] for d in (await alice.get("/api/v1/desks")).json()["desks"]] == ["rates"]
            for path in ("desks?org=local", "orgs", "issuers", "certificates", "signingKeys"):
                answer = await alice.get(f"/api/v1/{path}")
                assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
            # Narrowing the desk narrows its callers at once.
            before = await gateway.desired_version()
            with acting_for(OPERATOR):
                narrow = PutDeskRequest(org="firm", name="rates", scopes=["keys:read"], revoke_wider=True)
                await gateway.host.client(AuthenticationClient).put_desk(narrow)
            await gateway.wait_until_applied(before)
            me = (await alice.get("/api/v1/me")).json()
            assert (me["scopes"], me["walls"]) == (["keys:read"], [])
            assert (await alice.get(LIST)).status_code == 403
            before = await gateway.desired_version()
            assert (await admin.delete("/api/v1/issuers/idp")).status_code == 200
            await gateway.wait_until_applied(before)
            assert (await alice.get("/api/v1/me")).status_code == 401
    async with gateway.client() as anonymous:
        assert (await anonymous.get("/api/v1/me")).status_code == 401


async def test_first_key_has_every_scope_and_is_created_once(gateway: GatewayHarness, tmp_path: Path) -> None:
    paths, channels = PlatformPaths(tmp_path / "data"), Channels()
    paths.data.mkdir()

    async def stored_key() -> str:
        await ensure_key(paths, gateway.profile, channels)
        return json.loads(paths.credentials.read_text())["api_key"]

    try:
        first = await stored_key()
        assert await stored_key() == first
        # A key as a release with fewer scopes would have created it.
        narrow = await gateway.create_key("models:read", "keys:read")
        write(paths.credentials, gateway.url, narrow)
        replacement = await stored_key()
        assert replacement not in (first, narrow)
        for secret, scopes in ((replacement, len(SCOPES)), (narrow, 2)):
            async with gateway.client(secret) as client:
                assert len((await client.get("/api/v1/me")).json()["scopes"]) == scopes
        # A narrowed org and desk get all their scopes back.
        narrowed_desk = PutDeskRequest(name="research", scopes=["keys:read"], revoke_wider=True)
        before = await gateway.desired_version()
        with acting_for(OPERATOR):
            await gateway.host.client(AuthenticationClient).put_desk(narrowed_desk)
        await gateway.wait_until_applied(before)
        assert await stored_key() not in (first, replacement, narrow)
    finally:
        await channels.close()
