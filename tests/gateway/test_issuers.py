"""Issuers and certificates: validation, fetching of key sets, audit records and delivery to data planes."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from psycopg import sql
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from agent.xds.test_identity import CertificateAuthority
from drw.api.gateway.v1.authentication_pb2 import (
    Certificate,
    CreateKeyRequest,
    Credentials,
    DeleteCertificateRequest,
    DeleteDeskRequest,
    DeleteIssuerRequest,
    DeleteOrgRequest,
    GetCertificateRequest,
    GetIssuerRequest,
    Issuer,
    ListCertificatesRequest,
    ListIssuersRequest,
    PutCertificateRequest,
    PutDeskRequest,
    PutIssuerRequest,
    RefreshIssuerRequest,
    Role,
    RotateKeyRequest,
    WatchCredentialsRequest,
)
from drw.api.gateway.v1.authentication_rpc import AuthenticationClient
from drw.gateway.authentication.adapters.jwks_http import JwksFetcher
from drw.gateway.authentication.issuers import jwks
from drw.kernel.errors import Conflict, DrwError, Forbidden, InternalError, InvalidRequest, NotFound, Unavailable
from drw.kernel.rpc.context import acting_for
from drw.kernel.rpc.http.server import HttpServer
from drw.kernel.runtime.settings import Profile
from drw.local.first_key import OPERATOR
from support.database.audit_records import audit_records
from support.database.locks import until_locks_wait
from support.database.sql import execute
from support.hosting import hosted
from support.json_types import Json, JsonObject

SERVICES = ["authentication", "rate_limiting"]


def ec_key(kid: str, *, curve: ec.EllipticCurve | None = None, **more: Json) -> JsonObject:
    public = ec.generate_private_key(curve or ec.SECP256R1()).public_key()
    return {**json.loads(ECAlgorithm.to_jwk(public)), "kid": kid, "use": "sig", **more}


def key_set(*keys: JsonObject) -> str:
    return json.dumps({"keys": list(keys)})


class DoubleIssuer:
    """A server of an issuer's key set, with the response that the test sets."""

    def __init__(self) -> None:
        self.body = key_set(ec_key("k1"))
        self.status = 200
        self.requests = 0
        self.other_body = self.body
        """The response at the path `/odd`."""
        self.response_released = asyncio.Event()
        self.response_released.set()
        routes = [
            Route("/jwks", self._serve_key_set),
            Route("/odd", self._serve_other_body),
            Route("/away", self._serve_redirect),
        ]
        self.app = Starlette(routes=routes)
        self.address = ""

    async def _serve_key_set(self, request: Request) -> Response:
        self.requests += 1
        return Response(self.body, self.status, headers={"cache-control": "max-age=600"})

    async def _serve_other_body(self, request: Request) -> Response:
        await self.response_released.wait()
        return Response(self.other_body)

    async def _serve_redirect(self, request: Request) -> Response:
        return RedirectResponse("/jwks")


@pytest.fixture
async def issuer() -> AsyncIterator[DoubleIssuer]:
    double = DoubleIssuer()
    server = HttpServer(double.app)
    double.address = await server.start("127.0.0.1:0")
    yield double
    await server.stop(0)


@pytest.fixture
async def client(profile: Profile, issuer: DoubleIssuer) -> AsyncIterator[AuthenticationClient]:
    settings = profile.services["authentication"] | {"jwks_hosts": [issuer.address]}
    changed = profile.model_copy(update={"services": {"authentication": settings}})
    async with hosted(changed, SERVICES) as host:
        yield host.client(AuthenticationClient)


def issuer_request(**fields: Json) -> PutIssuerRequest:
    base = {"name": "idp", "issuer": "https://idp.example", "audiences": ["drw"], "org": "acme"}
    if "jwks_uri" not in fields:
        base["jwks"] = key_set(ec_key("k0"))
    return PutIssuerRequest(**{**base, "roles": [Role(name="trader", scopes=["models:invoke"])], **fields})


async def put(client: AuthenticationClient, **fields: Json) -> Issuer:
    with acting_for(OPERATOR):
        return await client.put_issuer(issuer_request(**fields))


async def get(client: AuthenticationClient, name: str = "idp") -> Issuer:
    with acting_for(OPERATOR):
        return await client.get_issuer(GetIssuerRequest(name=name))


async def refresh(client: AuthenticationClient, name: str = "idp") -> Issuer:
    with acting_for(OPERATOR):
        return await client.refresh_issuer(RefreshIssuerRequest(name=name))


async def current_credentials(client: AuthenticationClient) -> Credentials:
    async with aclosing(client.watch_credentials(WatchCredentialsRequest())) as updates:
        return await anext(updates)


async def test_data_planes_receive_an_issuer_with_its_keys_and_desks(
    client: AuthenticationClient, profile: Profile
) -> None:
    async with aclosing(client.watch_credentials(WatchCredentialsRequest())) as updates:
        assert not (await anext(updates)).issuers
        created = await put(client)
        credentials = await anext(updates)
        assert [one.name for one in credentials.issuers] == ["idp"]
        assert jwks.kids(credentials.issuers[0].jwks) == list(created.kids) == ["k0"]
        assert [(desk.org, desk.name) for desk in credentials.desks] == [("acme", "research")]
        assert (created.claims.desk, created.claims.roles, created.claims.org, created.claims.walls) == (
            "desk",
            "roles",
            "",
            "",
        )
        with acting_for(OPERATOR):
            await client.put_desk(PutDeskRequest(org="acme", name="new", scopes=["models:read"]))
            assert [desk.name for desk in (await anext(updates)).desks] == ["new", "research"]
            await client.delete_issuer(DeleteIssuerRequest(name="idp"))
            assert not (await anext(updates)).issuers
            with pytest.raises(NotFound, match="there is no issuer 'idp'"):
                await client.delete_issuer(DeleteIssuerRequest(name="idp"))
    first, last = audit_records(profile, "issuer.*")
    assert (first["actor"], first["details"]["before"]) == ("operator", None)
    assert first["details"]["after"]["roles"] == [{"name": "trader", "scopes": ["models:invoke"]}]
    assert last["details"]["after"] is None


async def test_the_last_valid_key_set_is_used_while_the_issuer_fails(
    client: AuthenticationClient, issuer: DoubleIssuer, profile: Profile
) -> None:
    created = await put(client, jwks_uri=f"http://{issuer.address}/jwks")
    assert list(created.kids) == ["k1"] and created.jwks == ""
    before = await current_credentials(client)
    for body, status, message in [
        (issuer.body, 500, "no keys came from jwks_uri"),
        ("no keys", 200, "a JWKS is a JSON object"),
        (key_set(), 200, "has no key for signatures"),
        ("x" * (jwks.MAX_BYTES + 1), 200, "more than 262144 bytes"),
    ]:
        issuer.body, issuer.status = body, status
        with pytest.raises((Unavailable, InvalidRequest), match=message):
            await refresh(client)
        assert message in (await get(client)).fetch_error
        assert await current_credentials(client) == before
    assert list((await get(client)).kids) == ["k1"]
    # A rotation of the issuer's keys is sent to data planes immediately, and audited.
    issuer.body, issuer.status = key_set(ec_key("k1"), ec_key("k2")), 200
    async with aclosing(client.watch_credentials(WatchCredentialsRequest())) as updates:
        assert await anext(updates) == before
        assert list((await refresh(client)).kids) == ["k1", "k2"]
        assert sorted(jwks.kids((await anext(updates)).issuers[0].jwks)) == ["k1", "k2"]
    assert (await get(client)).fetch_error == ""
    last = audit_records(profile, "issuer.keys")[-1]
    assert [last["details"][side]["kids"] for side in ("before", "after")] == [["k1"], ["k1", "k2"]]


async def test_key_sets_are_fetched_again_after_their_cache_time(
    client: AuthenticationClient, issuer: DoubleIssuer, profile: Profile
) -> None:
    await put(client, jwks_uri=f"http://{issuer.address}/jwks")
    issuer.body = key_set(ec_key("k2"))
    async with aclosing(client.watch_credentials(WatchCredentialsRequest())) as updates:
        await anext(updates)
        execute(profile, "update authentication.issuer set refresh_at = now()")
        assert jwks.kids((await anext(updates)).issuers[0].jwks) == ["k2"]
    ((remaining,),) = execute(profile, "select extract(epoch from refresh_at - now()) from authentication.issuer")
    assert 500 < remaining <= 600  # the `max-age` of the response


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        ('{"keys": [{"kty": []}]}', "has no key for signatures"),
        (key_set(ec_key("\ud800")), "a `kid` of the JWKS is not at most 200 printable ASCII characters"),
        (key_set(*(ec_key(f"{number}" * 2000) for number in range(10, 30))), "a `kid` of the JWKS"),
    ],
)
async def test_an_invalid_response_of_one_issuer_does_not_affect_others(
    client: AuthenticationClient, issuer: DoubleIssuer, profile: Profile, invalid: str, message: str
) -> None:
    await put(client, name="odd", issuer="https://odd.example", jwks_uri=f"http://{issuer.address}/odd")
    await put(client, jwks_uri=f"http://{issuer.address}/jwks")
    with acting_for(OPERATOR):
        key = (await client.create_key(CreateKeyRequest(name="n", scopes=["models:read"]))).key.id
        await client.rotate_key(RotateKeyRequest(id=key, overlap_seconds=3600))
    issuer.other_body, issuer.body = invalid, key_set(ec_key("k2"))
    async with aclosing(client.watch_credentials(WatchCredentialsRequest())) as updates:
        credentials = await anext(updates)
        execute(profile, "update authentication.issuer set refresh_at = now() - (name = 'odd')::int * interval '1 s'")
        execute(profile, "update authentication.key set ends_at = now() where ends_at is not null")
        while not (jwks.kids(credentials.issuers[0].jwks) == ["k2"] and list(credentials.revoked) == [key]):
            credentials = await anext(updates)
    with pytest.raises(InvalidRequest):
        await refresh(client, "odd")
    assert message in (await get(client, "odd")).fetch_error
    ((remaining,),) = execute(
        profile, "select extract(epoch from refresh_at - now()) from authentication.issuer where name = 'odd'"
    )
    assert 0 < remaining <= 30


async def test_a_slow_issuer_does_not_delay_others(
    client: AuthenticationClient, issuer: DoubleIssuer, profile: Profile
) -> None:
    await put(client, name="odd", issuer="https://odd.example", jwks_uri=f"http://{issuer.address}/odd")
    await put(client, jwks_uri=f"http://{issuer.address}/jwks")
    issuer.response_released.clear()
    issuer.body = key_set(ec_key("k2"))
    async with aclosing(client.watch_credentials(WatchCredentialsRequest())) as updates:
        await anext(updates)
        execute(profile, "update authentication.issuer set refresh_at = now() - (name = 'odd')::int * interval '1 s'")
        assert jwks.kids((await anext(updates)).issuers[0].jwks) == ["k2"]
    assert (await get(client, "odd")).fetch_error == ""  # the fetch is still running
    issuer.response_released.set()


async def test_an_unexpected_error_is_stored_in_the_issuer(
    client: AuthenticationClient, issuer: DoubleIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(client, jwks_uri=f"http://{issuer.address}/jwks")

    def read(text: bytes) -> str:
        raise RecursionError("deep\0")

    monkeypatch.setattr(jwks, "read", read)
    with pytest.raises(InternalError, match="its key set cannot be read: RecursionError"):
        await refresh(client)
    assert (await get(client)).fetch_error == "its key set cannot be read: RecursionError"


async def test_an_issuer_with_many_keys_can_be_changed(client: AuthenticationClient, profile: Profile) -> None:
    many = [ec_key(f"{number}" + "k" * 190) for number in range(10, 60)]
    for title in ("one", "two"):
        await put(client, jwks=key_set(*many), audiences=[title])
    first, last = (record["details"] for record in audit_records(profile, "issuer.put"))
    assert last["before"] == first["after"] and len(last["after"]["keys"]["kids"]) == 20
    await put(client, jwks=key_set(*many[:49]), audiences=["two"])
    details = audit_records(profile, "issuer.put")[-1]["details"]
    assert details["before"]["keys"]["digest"] != details["after"]["keys"]["digest"]
    wide = [Role(name=f"{number}" + "ö" * 190, scopes=["models:invoke"]) for number in range(10, 60)]
    await put(client, roles=wide)
    await put(client, audiences=["three"], roles=wide)
    with pytest.raises(InvalidRequest, match="at most 28000 besides its keys"):
        await put(client, roles=[Role(name=role.name, scopes=sorted(OPERATOR.scopes)) for role in wide])
    with acting_for(OPERATOR):
        await client.delete_issuer(DeleteIssuerRequest(name="idp"))


async def test_an_invalid_issuer_is_rejected_with_the_valid_form(
    client: AuthenticationClient, issuer: DoubleIssuer
) -> None:
    cases: list[tuple[JsonObject, type[DrwError], str]] = [
        ({"name": "A"}, InvalidRequest, "name is 'A'"),
        ({"name": "x" * 33}, InvalidRequest, "at most 32"),
        ({"issuer": ""}, InvalidRequest, "issuer is missing; it can have 1 to 200 printable characters"),
        ({"issuer": "drw"}, InvalidRequest, "which is this platform itself"),
        ({"audiences": []}, InvalidRequest, "audiences is empty; it needs at least one"),
        ({"org": "ghosts"}, NotFound, "there is no org 'ghosts'"),
        ({"default_desk": "ghosts"}, NotFound, "has no desk 'ghosts'"),
        ({"roles": [Role(name="a", scopes=["models:fly"])]}, InvalidRequest, "'models:fly' is not a scope"),
        ({"roles": [Role(name="a")] * 2}, InvalidRequest, "give each role once"),
        ({"jwks": ""}, InvalidRequest, "needs jwks_uri or jwks, one of the two"),
        ({"jwks_uri": "https://x.example/", "jwks": "{}"}, InvalidRequest, "one of the two"),
        ({"jwks": "{}"}, InvalidRequest, 'a list of "keys"'),
        ({"jwks_uri": f"http://{issuer.address}/away"}, Unavailable, "no keys came from jwks_uri"),
        ({"jwks_uri": "http://127.0.0.1:9/jwks"}, InvalidRequest, "fetched over https only"),
    ]
    for fields, error, message in cases:
        with pytest.raises(error) as caught:
            await put(client, **fields)
        assert message in caught.value.message, fields
    await put(client)
    with pytest.raises(Conflict, match="is the issuer 'idp' already; an issuer belongs to one org"):
        await put(client, name="other", org="local")
    with acting_for(OPERATOR):
        assert [one.name for one in (await client.list_issuers(ListIssuersRequest())).issuers] == ["idp"]
        with pytest.raises(InvalidRequest, match="has its keys in its record"):
            await client.refresh_issuer(RefreshIssuerRequest(name="idp"))
        await client.delete_desk(DeleteDeskRequest(org="acme", name="research"))
        with pytest.raises(Conflict, match="still has 'the issuer idp'"):
            await client.delete_org(DeleteOrgRequest(name="acme"))


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("ftp://idp.example/jwks", "jwks_uri: .* is not a URL"),
        ("http://idp.example/jwks", "fetched over https only .services.authentication.jwks_hosts"),
        ("https://169.254.169.254/jwks", "inside this network"),
        ("https://①②⑦.⓪.⓪.①/jwks", "https://host/path"),
        ("https://[::1]/jwks", "inside this network"),
        ("https://user:pass@idp.example/jwks", "without user"),
        ("https://idp.example:x/jwks", "is not an address"),
        ("https://idp.example/" + "x" * 500, "https://host/path"),
        ("jwks", "https://host/path"),
    ],
)
def test_forbidden_jwks_uris_are_rejected(uri: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        JwksFetcher(JwksFetcher.Settings()).check(uri)


async def test_fetch_errors_do_not_reveal_hosts_and_ports(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A closed port, a port with or without TLS and an internal address have the same error; the log has the reason."""

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    certificate, key = CertificateAuthority().write(tmp_path, "inside")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    plain = await asyncio.start_server(silent, "127.0.0.1", 0)
    secure = await asyncio.start_server(silent, "127.0.0.1", 0, ssl=tls)
    plain_port, secure_port = (server.sockets[0].getsockname()[1] for server in (plain, secure))
    fetcher_of_setting = JwksFetcher(
        JwksFetcher.Settings(hosts=tuple(f"127.0.0.1:{port}" for port in (1, plain_port, secure_port)))
    )
    errors = set()
    for fetcher, uri in [
        (fetcher_of_setting, "https://127.0.0.1:1/"),
        (fetcher_of_setting, f"https://127.0.0.1:{plain_port}/"),
        (fetcher_of_setting, f"http://127.0.0.1:{plain_port}/"),
        (fetcher_of_setting, f"https://127.0.0.1:{secure_port}/"),
        (fetcher_of_setting, f"http://127.0.0.1:{secure_port}/"),
        (fetcher_of_setting, f"https://localhost:{plain_port}/"),
        (fetcher_of_setting, "https://nothing.invalid/"),
    ]:
        with pytest.raises(Unavailable) as caught:
            await fetcher.fetch(uri)
        errors.add((caught.value.message, caught.value.code))
    plain.close()
    secure.close()
    assert len(errors) == 1
    assert "127.0.0.1" not in str(errors)
    for reason in ("Connect call failed", "CERTIFICATE_VERIFY_FAILED", "inside this network"):
        assert reason in caplog.text


def test_only_public_signing_keys_are_stored() -> None:
    def ed25519_key(**more: str) -> JsonObject:
        return {**json.loads(OKPAlgorithm.to_jwk(ed25519.Ed25519PrivateKey.generate().public_key())), **more}

    def rsa_key(bits: int) -> JsonObject:
        return json.loads(RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, bits).public_key()))

    key_set_text = jwks.read(
        key_set(
            ec_key("a", x5c=["..."], note=1),
            ec_key("b", use="enc"),
            {"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA", "kid": "c"},
            ed25519_key(kid="d"),
            rsa_key(2048),
            ec_key("e", curve=ec.SECP384R1(), alg="ES384"),
            ec_key("f", curve=ec.SECP521R1()),
            {"kty": "new"},
            {"kty": {}},
        )
    )
    assert sorted(jwks.kids(key_set_text)) == ["a", "d", "e", "f"] and len(json.loads(key_set_text)["keys"]) == 5
    assert '"x5c"' not in key_set_text
    private = json.loads(ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1())))
    for invalid_key, message in [
        ({"kty": "oct", "k": "c2VjcmV0"}, "symmetric or a private key"),
        (private, "symmetric or a private key"),
        (rsa_key(1024), "an RSA key of 1024 bits; it needs 2048"),
        (ec_key("a") | {"x": "AA"}, "cannot be read"),
        (ec_key("a") | {"x": 7}, "lacks a part"),
        (ec_key("a", alg="HS256"), "no key for signatures"),
        (ec_key("a", curve=ec.SECP384R1(), alg="ES256"), "no key for signatures"),
        (ec_key("a", alg=["ES256"]), "no key for signatures"),
        (ec_key("a\nb"), "a `kid` of the JWKS"),
    ]:
        with pytest.raises(InvalidRequest, match=message):
            jwks.read(key_set(invalid_key))
    with pytest.raises(InvalidRequest, match="at most 50 objects"):
        jwks.read(key_set(*[ec_key("a")] * 51))


def certificate(**fields: Json) -> PutCertificateRequest:
    base = {"name": "pricing", "san": "spiffe://firm/pricing", "org": "acme", "desk": "research"}
    return PutCertificateRequest(**{**base, "scopes": ["models:read"], "walls": ["rates"], **fields})


async def test_a_certificate_has_at_most_the_permissions_of_its_desk(
    client: AuthenticationClient, profile: Profile
) -> None:
    with acting_for(OPERATOR):
        created = await client.put_certificate(certificate())
        cases: list[tuple[JsonObject, type[DrwError], str]] = [
            ({"name": "A"}, InvalidRequest, "name is 'A'"),
            ({"san": "*.firm.example"}, InvalidRequest, "san is '*.firm.example'"),
            ({"san": "localhost"}, InvalidRequest, "a DNS name"),
            ({"scopes": []}, InvalidRequest, "at least one scope"),
            ({"desk": "ghosts"}, NotFound, "has no desk 'ghosts'"),
            ({"walls": ["other"]}, Forbidden, "cannot have the wall 'other'"),
            ({"name": "second"}, Conflict, "is the certificate 'pricing' already"),
        ]
        for fields, error, message in cases:
            with pytest.raises(error) as caught:
                await client.put_certificate(certificate(**fields))
            assert message in caught.value.message
        (listed,) = (await client.list_certificates(ListCertificatesRequest())).certificates
        assert listed == created == await client.get_certificate(GetCertificateRequest(name="pricing"))
        assert [one.san for one in (await current_credentials(client)).certificates] == ["spiffe://firm/pricing"]
        with pytest.raises(Conflict, match="still has 'the certificate pricing'"):
            await client.delete_desk(DeleteDeskRequest(org="acme", name="research"))
        await client.put_certificate(certificate(scopes=["models:invoke"]))
        await client.delete_certificate(DeleteCertificateRequest(name="pricing"))
        with pytest.raises(NotFound, match="`drw certificates list` shows them"):
            await client.get_certificate(GetCertificateRequest(name="pricing"))
    changes = [record["details"] for record in audit_records(profile, "certificate.*")]
    scopes = [[side and side["scopes"] for side in (change["before"], change["after"])] for change in changes]
    assert scopes == [[None, ["models:read"]], [["models:read"], ["models:invoke"]], [["models:invoke"], None]]


async def test_a_caller_cannot_configure_identities_with_more_than_its_own_scopes(client: AuthenticationClient) -> None:
    admin = replace(OPERATOR, org="acme", key="key_admin", scopes=frozenset({"platform:admin", "models:read"}))
    with acting_for(admin):
        with pytest.raises(Forbidden, match="'key_admin' lacks the scope 'models:invoke', so it cannot grant it"):
            await client.put_issuer(issuer_request())
        with pytest.raises(Forbidden, match="'key_admin' lacks the scope 'models:invoke', so it cannot grant it"):
            await client.put_certificate(certificate(scopes=["models:invoke"], walls=[]))
        with pytest.raises(Forbidden, match="is outside the wall 'rates'"):
            await client.put_certificate(certificate())
        assert await client.put_certificate(certificate(walls=[]))
        assert await client.put_issuer(issuer_request(roles=[Role(name="reader", scopes=["models:read"])]))


@pytest.mark.parametrize("kind", ["certificate", "issuer"])
async def test_concurrent_put_and_delete_do_not_deadlock(
    client: AuthenticationClient, profile: Profile, kind: str
) -> None:
    put_it: Callable[[], Coroutine[object, None, Certificate | Issuer]]
    delete_it: Callable[[], Coroutine[object, None, Certificate | Issuer]]
    if kind == "certificate":
        put_it = partial(client.put_certificate, certificate())
        delete_it = partial(client.delete_certificate, DeleteCertificateRequest(name="pricing"))
    else:
        put_it = partial(client.put_issuer, issuer_request())
        delete_it = partial(client.delete_issuer, DeleteIssuerRequest(name="idp"))
    with acting_for(OPERATOR):
        await put_it()
        with psycopg.connect(profile.postgres) as connection:
            connection.execute(sql.SQL("select 1 from {} for update").format(sql.Identifier("authentication", kind)))
            deleting: asyncio.Task[Certificate | Issuer] = asyncio.create_task(delete_it())
            await until_locks_wait(profile, 1)
            putting: asyncio.Task[Certificate | Issuer] = asyncio.create_task(put_it())
            await until_locks_wait(profile, 2)
        assert (await deleting).name == (await putting).name
