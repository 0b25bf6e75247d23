"""Issuer tokens and client certificates as caller identities, through a real Envoy."""

from __future__ import annotations

import datetime
import json
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from jwt.algorithms import RSAAlgorithm, get_default_algorithms
from jwt.utils import base64url_encode

from agent.data_plane import DataPlaneHarness, running
from drw.agent.delivery import envoy
from drw.agent.xds.http_filters.identity import lua_literal
from drw.api.gateway.v1.authentication_pb2 import Certificate, ClaimNames, Desk, Issuer, Role
from drw.kernel.runtime.settings import Profile, Tls
from drw.local.preflight import free_port
from support.json_types import Json, JsonObject
from support.parts import until

CHAT, LIST = "/v1/chat/completions", "/v1/models"
ISS, AUD = "https://login.example", "drw"
ISSUER_KEY = rsa.generate_private_key(65537, 2048)
JWK = {"kty": "RSA", "kid": "r1", "alg": "RS256", "use": "sig"}
PUBLIC = JWK | {k: v for k, v in json.loads(RSAAlgorithm.to_jwk(ISSUER_KEY.public_key())).items() if k in ("n", "e")}
PEM = ISSUER_KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
DESKS = [
    Desk(org="acme", name="rates", scopes=["models:invoke", "models:read"], walls=["m-and-a", "rates"]),
    Desk(org="acme", name="quiet", scopes=["models:read"]),
    Desk(org="local", name="research", scopes=["models:invoke", "models:read", "org:admin"]),
]
ROLES = [
    Role(name="trader", scopes=["models:invoke", "org:admin"]),
    Role(name='odd "role"\\', scopes=["models:read"]),
]


def issuer(**fields: Json) -> Issuer:
    claims = ClaimNames(org="firm", desk="desk", roles="realm_access.roles", walls="walls")
    base = {"name": "idp", "issuer": ISS, "audiences": [AUD, "other"], "org": "acme", "claims": claims}
    return Issuer(**{**base, "jwks": json.dumps({"keys": [PUBLIC]}), "roles": ROLES, **fields})


def claims(**changes: Json) -> JsonObject:
    now = int(time.time())
    base = {"iss": ISS, "aud": AUD, "sub": "u1", "exp": now + 600, "firm": "acme", "desk": "rates"}
    values = base | {"realm_access": {"roles": ["trader"]}, "walls": ["rates", "elsewhere"]} | changes
    return {name: value for name, value in values.items() if value is not None}


def token(key: rsa.RSAPrivateKey = ISSUER_KEY, algorithm: str = "RS256", kid: str = "r1", **changes: Json) -> str:
    return jwt.encode(claims(**changes), key, algorithm, headers={"kid": kid})


def identity_headers(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 200, answer.text
    return {k.removeprefix("x-drw-"): v for k, v in answer.json()["headers"].items() if k.startswith("x-drw-")}


def rejection_message(answer: httpx.Response) -> str:
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (401, "authentication_error", "invalid_api_key")
    return error["message"]


async def test_issuer_token_sets_the_same_headers_as_a_key(data_plane: DataPlaneHarness) -> None:
    assert (await data_plane.apply(issuers=[issuer()], desks=DESKS)).error == ""
    good = {"org": "acme", "desk": "rates", "key": "oidc:idp:u1", "scopes": "models:invoke", "walls": "rates"}
    async with data_plane.client() as client:

        async def send_request(path: str = LIST, **other: Json) -> httpx.Response:
            headers = {
                "authorization": f"Bearer {token(**other)}",
                "x-drw-scopes": "org:admin",
                "x-drw-walls": "m-and-a",
            }
            return await client.get(path, headers=headers)

        assert identity_headers(await send_request()) == good
        assert identity_headers(await send_request(aud=["x", "other"])) == good
        # A role grants nothing beyond the desk; a list claim may also be a space-separated string.
        many_roles: JsonObject = {
            "realm_access": {"roles": ["nobody", 'odd "role"\\', "trader"]},
            "walls": "rates m-and-a nowhere",
        }
        options = {"scopes": "models:invoke models:read", "walls": "m-and-a rates"}
        assert identity_headers(await send_request(**many_roles)) == good | options
        unusual_types: JsonObject = {"realm_access": {"roles": 'trader odd "role"\\'}, "desk": ["rates"], "walls": None}
        assert identity_headers(await send_request(**unusual_types)) == {k: v for k, v in good.items() if k != "walls"}
        assert identity_headers(await send_request(sub="auth0|ä b/%"))["key"] == "oidc:idp:auth0|%C3%A4%20b%2F%25"
        # Authenticated, without the scope of the route.
        answer = await send_request(realm_access={"roles": []})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
        answer = await send_request("/api/v1/me", realm_access=None)
        assert answer.status_code == 503  # passed on to a service that does not run in this test
        # A valid token for an unknown caller.
        assert "no such desk: 'nowhere'" in rejection_message(await send_request(desk="nowhere"))
        # 'research' is a desk of another org.
        assert "no such desk: 'research'" in rejection_message(await send_request(desk="research"))
        for desk in (None, ["rates", "quiet"], 7, {"name": "rates"}):
            assert "no such desk: ''" in rejection_message(await send_request(desk=desk))
        for firm in (None, "local", ["acme", "local"]):
            assert "another org" in rejection_message(await send_request(firm=firm))
        for sub in (None, "", 7, "x" * 129):
            if not isinstance(sub, int):  # PyJWT refuses to sign this
                assert "names nobody" in rejection_message(await send_request(sub=sub))
        # A platform key still works, and the issuer adds nothing to it.
        headers = {"authorization": f"Bearer {data_plane.sign('key_1', 'models:read')}"}
        assert identity_headers(await client.get(LIST, headers=headers))["key"] == "key_1"
        assert "there is no key" in rejection_message(await client.get(LIST))
        assert (await client.get("/healthz?x")).text == "ok\n"
        answer = await client.get(LIST, headers=headers | {"authorization": f"Bearer {token()}"})
        assert "authorization" not in answer.json()["headers"]


def token_with_header(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, head: JsonObject | bytes, body: JsonObject
) -> str:
    """Return a token with this header and a valid signature (RS256, or ES256 for a P-256 key)."""
    raw = head if isinstance(head, bytes) else json.dumps(head).encode()
    signed_part = b".".join(base64url_encode(part) for part in (raw, json.dumps(body).encode()))
    name = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
    return b".".join([signed_part, base64url_encode(get_default_algorithms()[name].sign(signed_part, key))]).decode()


INVALID_HEADERS: list[JsonObject] = [
    {"crit": ["zzz"], "zzz": 1},
    {"crit": []},
    {"crit": None},
    {"crit": ["b64"], "b64": False},
    {"b64": False},
    {"b64": True},
    {"cty": "JWT"},
    {"enc": "A256GCM"},
    {"zip": "DEF"},
    {"typ": "logout+jwt"},
    {"typ": "dpop+jwt"},
    {"typ": "secevent+jwt"},
    {"typ": 7},
    {"typ": ["JWT"]},
    {"typ": "JWTx"},
    {"alg": "PS256"},
    {"alg": "none"},
    {"alg": "HS256"},
    {"kid": 7},
    {"kid": "r1' or '1'='1"},
    {"kid": "../../r1"},
]
"""Headers that are rejected despite a valid signature (RFC 7515, RFC 7797, RFC 8725)."""


async def test_invalid_token_header_is_rejected_despite_a_valid_signature(data_plane: DataPlaneHarness) -> None:
    assert (await data_plane.apply(issuers=[issuer()], desks=DESKS)).error == ""
    signing = data_plane.signing._key
    now = int(time.time())
    own_claims: JsonObject = {
        "iss": "drw",
        "aud": "drw-gateway",
        "sub": "key_1",
        "org": "local",
        "desk": "research",
    }
    own_claims |= {"scope": "models:read", "iat": now, "exp": now + 600}
    async with data_plane.client() as client:

        async def send_request(secret: str) -> httpx.Response:
            return await client.get(LIST, headers={"authorization": f"Bearer {secret}"})

        issued: list[tuple[rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, JsonObject, JsonObject]] = [
            (ISSUER_KEY, {"alg": "RS256", "kid": "r1"}, claims(realm_access={"roles": ['odd "role"\\']})),
            (signing, {"alg": "ES256", "kid": data_plane.signing.kid}, own_claims),
        ]
        for key, base, body in issued:
            for good in ({}, {"typ": "JWT"}, {"typ": "jwt"}, {"typ": "at+jwt"}, {"typ": "application/at+JWT"}):
                assert (await send_request(token_with_header(key, base | good, body))).status_code == 200, good
            for bad in INVALID_HEADERS:
                assert (await send_request(token_with_header(key, base | bad, body))).status_code == 401, bad
            repeated_parameter = (
                json.dumps(base)[:-1].encode() + b', "crit": ["zzz"], "alg": "' + base["alg"].encode() + b'"}'
            )
            for raw in (repeated_parameter, b"[]", b'"x"', b"{", b"\xff"):
                rejection_message(await send_request(token_with_header(key, raw, body)))
            assert (await send_request(token_with_header(key, base, body))).status_code == 200


async def test_invalid_tokens_are_rejected(data_plane: DataPlaneHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    minimal_issuer, other = Issuer(), rsa.generate_private_key(65537, 2048)
    minimal_issuer.CopyFrom(issuer(default_desk="quiet"))
    minimal_issuer.claims.org = ""
    assert (await data_plane.apply(issuers=[minimal_issuer], desks=DESKS)).error == ""
    head, body, signature = token().split(".")
    none = jwt.encode(claims(), "", "none", headers={"kid": "r1"})
    # Algorithm confusion: the public key as the HMAC secret.
    confused = jwt.api_jws.PyJWS()
    monkeypatch.setattr(confused._algorithms["HS256"], "prepare_key", lambda key: key)
    hs256 = confused.encode(json.dumps(claims()).encode(), PEM, "HS256", headers={"kid": "r1"})
    hs256_n = jwt.encode(claims(), PUBLIC["n"], "HS256", headers={"kid": "r1"})
    async with data_plane.client() as client:

        async def send_request(secret: str) -> httpx.Response:
            return await client.get(LIST, headers={"authorization": f"Bearer {secret}"})

        assert (
            identity_headers(await send_request(token(desk=None, realm_access={"roles": ['odd "role"\\']})))["desk"]
            == "quiet"
        )
        for bad in [
            none,
            none.rstrip(".") + f".{signature}",
            hs256,
            hs256_n,
            token(aud="somebody-else"),
            token(aud=None),
            token(iss="https://another.example"),
            token(iss=None),
            token(kid="r2"),
            token(key=other),
            f"{head}.{body}.",
            f"{head}.{body}.{signature[:-8]}AAAAAAAA",
            token(iss="drw", aud="drw-gateway", scope="org:admin", org="acme"),
            token(exp=None),
            token(nbf=int(time.time()) + 600),
            "not.a.token",
        ]:
            rejection_message(await send_request(bad))
        assert "has expired" in rejection_message(await send_request(token(exp=int(time.time()) - 60)))
        # No claim reaches the org of another tenant.
        assert (
            identity_headers(await send_request(token(org="local", firm="local", scope="org:admin")))["org"] == "acme"
        )
        assert (await data_plane.apply()).error == ""
        rejection_message(await send_request(token()))


def test_record_values_are_escaped_in_lua() -> None:
    literal = lua_literal({"a": ['"]] end\\', "\n\0é"], "b": True, "c": None, "d": {}})
    assert literal == '{["a"] = {"\\034]] end\\092", "\\010\\000\\195\\169"}, ["b"] = true, ["d"] = {}}'


class CertificateAuthority:
    """A certificate authority for tests."""

    def __init__(self, name: str = "firm") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign(name, self.key, [], name, ca=True)

    def write(self, folder: Path, name: str, *sans: x509.GeneralName, days: int = 1) -> tuple[str, str]:
        """Write a certificate with these names and its private key; return both paths."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(name, key, list(sans), self.certificate.subject.rfc4514_string()[3:], days=days)
        files = folder / f"{name}.pem", folder / f"{name}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        private = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        files[1].write_bytes(key.private_bytes(*private))
        return str(files[0]), str(files[1])

    def _sign(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        sans: list[x509.GeneralName],
        issuer_name: str,
        *,
        ca: bool = False,
        days: int = 1,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        subject, signer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer_name))
        builder = (
            x509.CertificateBuilder(signer, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=2))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        if sans:
            builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
        return builder.sign(self.key, hashes.SHA256())


PRICING, BATCH = x509.UniformResourceIdentifier("spiffe://firm/pricing"), x509.DNSName("batch.firm.example")
CERTIFICATES = [
    Certificate(
        name="pricing",
        san="spiffe://firm/pricing",
        org="acme",
        desk="rates",
        scopes=["models:invoke", "org:admin"],
        walls=["rates", "elsewhere"],
    ),
    Certificate(name="batch", san="batch.firm.example", org="acme", desk="quiet", scopes=["models:read"]),
    Certificate(name="lost", san="spiffe://firm/lost", org="acme", desk="gone", scopes=["models:read"]),
]


@pytest.fixture
async def pki(
    data_plane_profile: Profile, tmp_path: Path
) -> AsyncIterator[tuple[DataPlaneHarness, CertificateAuthority, Path]]:
    """A data plane with a TLS listener, the authority of its client certificates, and their folder."""
    authority, folder = CertificateAuthority(), tmp_path / "certificates"
    folder.mkdir()
    certificate, key = authority.write(folder, "gateway", x509.DNSName("localhost"))
    ca = folder / "ca.pem"
    ca.write_bytes(authority.certificate.public_bytes(serialization.Encoding.PEM))
    tls = Tls(listen=f"127.0.0.1:{free_port('127.0.0.1')}", certificate=certificate, private_key=key, client_ca=ca)
    plane = envoy.data_plane_settings(data_plane_profile).model_copy(update={"tls": tls})
    async with running(DataPlaneHarness(data_plane_profile.model_copy(update={"data_plane": plane}))) as data_plane:
        yield data_plane, authority, folder


async def test_client_certificate_identifies_the_caller(
    pki: tuple[DataPlaneHarness, CertificateAuthority, Path],
) -> None:
    data_plane, authority, folder = pki
    url = f"https://localhost:{data_plane.tls.listen.rpartition(':')[2]}"

    def tls_client(files: tuple[str, str] | None = None, secret: str = "") -> httpx.AsyncClient:
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        if files:
            context.load_cert_chain(*files)
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        return httpx.AsyncClient(base_url=url, verify=context, headers=headers, timeout=30, trust_env=False)

    async def send_request(files: tuple[str, str] | None = None, secret: str = "", **headers: str) -> httpx.Response:
        async with tls_client(files, secret) as client:
            return await client.get(LIST, headers=headers)

    def issue(name: str, *sans: x509.GeneralName, **options: int) -> tuple[str, str]:
        return authority.write(folder, name, *sans, **options)

    pricing = issue("pricing", PRICING)
    rejection_message(await send_request(pricing))  # no identity is configured for it yet
    assert (
        await data_plane.apply(certificates=CERTIFICATES, desks=DESKS, issuers=[issuer()], revoked=["key_bad"])
    ).error == ""
    good = {"org": "acme", "desk": "rates", "key": "cert:pricing", "scopes": "models:invoke", "walls": "rates"}
    assert identity_headers(await send_request(pricing, **{"x-drw-scopes": "org:admin", "x-drw-org": "local"})) == good
    assert identity_headers(await send_request(issue("batch", BATCH)))["key"] == "cert:batch"
    # Several identities in one certificate, an unknown identity, or a deleted desk.
    assert "several callers" in rejection_message(await send_request(issue("both", PRICING, BATCH)))
    assert "stands for nobody here" in rejection_message(
        await send_request(issue("none", x509.DNSName("x.firm.example")))
    )
    assert "stands for nobody here" in rejection_message(await send_request(issue("bare")))
    assert "stands for nobody" in rejection_message(
        await send_request(issue("lost", x509.UniformResourceIdentifier("spiffe://firm/lost")))
    )
    # Without a certificate a key is needed; with both, the bearer token alone decides.
    assert "there is no key" in rejection_message(await send_request())
    key = data_plane.sign("key_1", "models:read")
    assert identity_headers(await send_request(secret=key))["key"] == "key_1"
    assert identity_headers(await send_request(pricing, key)) == {
        "org": "local",
        "desk": "research",
        "key": "key_1",
        "scopes": "models:read",
    }
    assert identity_headers(await send_request(pricing, token()))["key"] == "oidc:idp:u1"
    for bad in (data_plane.sign("key_bad", "models:read"), token(aud="x"), "sk-something", key[:-9] + "AAAAAAAAA"):
        rejection_message(await send_request(pricing, bad))
    for other in ("Basic dTpw", "BEARER x", ""):
        assert "not valid" in rejection_message(await send_request(pricing, **{"authorization": other}))
    # A certificate of another authority or an expired one fails the handshake.
    for files in (CertificateAuthority().write(folder, "forged", PRICING), issue("old", PRICING, days=-1)):
        with pytest.raises((httpx.TransportError, ssl.SSLError)):
            await send_request(files)
    # The plain listener reads no certificates.
    async with data_plane.client() as plain_client:
        assert "there is no key" in rejection_message(await plain_client.get(LIST))
        forged = {"x-forwarded-client-cert": "URI=spiffe://firm/pricing"}
        assert "there is no key" in rejection_message(await plain_client.get(LIST, headers=forged))
        assert (
            identity_headers(await plain_client.get(LIST, headers={"authorization": f"Bearer {key}"}))["key"] == "key_1"
        )


async def test_renewed_server_certificate_is_served_at_once(
    pki: tuple[DataPlaneHarness, CertificateAuthority, Path],
) -> None:
    data_plane, authority, folder = pki
    host, _, port = data_plane.tls.listen.partition(":")

    async def serial_number() -> int:
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        transport = httpx.AsyncHTTPTransport(verify=context)
        async with (
            httpx.AsyncClient(base_url=f"https://localhost:{port}", transport=transport) as client,
            client.stream("GET", "/healthz") as answer,
        ):
            der = answer.extensions["network_stream"].get_extra_info("ssl_object").getpeercert(binary_form=True)
            return x509.load_der_x509_certificate(der).serial_number

    first = await serial_number()
    for name in authority.write(folder, "next", x509.DNSName("localhost")):
        Path(name).replace(folder / f"gateway{Path(name).suffix}")

    async def is_renewed() -> bool:
        return await serial_number() != first

    await until(is_renewed, "the new certificate")
