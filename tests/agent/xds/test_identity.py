"""Callers without a key of ours: tokens of an issuer and client certificates, through a real Envoy."""

from __future__ import annotations

import datetime
import json
import ssl
import time
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from jwt.algorithms import RSAAlgorithm, get_default_algorithms
from jwt.utils import base64url_encode

from agent.data_plane import Fed, running
from drw.agent.delivery import envoy
from drw.agent.xds.http_filters.identity import lua_literal
from drw.api.gateway.v1.authentication_pb2 import Certificate, ClaimNames, Desk, Issuer, Role
from drw.kernel.runtime.settings import Profile, Tls
from drw.local.preflight import free_port
from support.parts import until

CHAT, LIST = "/v1/chat/completions", "/v1/models"
ISS, AUD = "https://login.example", "drw"
THEIRS = rsa.generate_private_key(65537, 2048)
KEY = {"kty": "RSA", "kid": "r1", "alg": "RS256", "use": "sig"}
PUBLIC = KEY | {k: v for k, v in json.loads(RSAAlgorithm.to_jwk(THEIRS.public_key())).items() if k in ("n", "e")}
PEM = THEIRS.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
DESKS = [
    Desk(org="acme", name="rates", scopes=["models:invoke", "models:read"], walls=["m-and-a", "rates"]),
    Desk(org="acme", name="quiet", scopes=["models:read"]),
    Desk(org="local", name="research", scopes=["models:invoke", "models:read", "org:admin"]),
]
ROLES = [
    Role(name="trader", scopes=["models:invoke", "org:admin"]),
    Role(name='odd "role"\\', scopes=["models:read"]),
]


def issuer(**fields) -> Issuer:
    claims = ClaimNames(org="firm", desk="desk", roles="realm_access.roles", walls="walls")
    base = {"name": "idp", "issuer": ISS, "audiences": [AUD, "other"], "org": "acme", "claims": claims}
    return Issuer(**{**base, "jwks": json.dumps({"keys": [PUBLIC]}), "roles": ROLES, **fields})


def claims(**other: Any) -> dict[str, Any]:
    now = int(time.time())
    base = {"iss": ISS, "aud": AUD, "sub": "u1", "exp": now + 600, "firm": "acme", "desk": "rates"}
    found = base | {"realm_access": {"roles": ["trader"]}, "walls": ["rates", "elsewhere"]} | other
    return {name: value for name, value in found.items() if value is not None}


def token(key=THEIRS, algorithm="RS256", kid="r1", **other) -> str:
    return jwt.encode(claims(**other), key, algorithm, headers={"kid": kid})


def known(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 200, answer.text
    return {k.removeprefix("x-drw-"): v for k, v in answer.json()["headers"].items() if k.startswith("x-drw-")}


def refused(answer: httpx.Response) -> str:
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (401, "authentication_error", "invalid_api_key")
    return error["message"]


async def test_a_token_of_an_issuer_ends_in_the_same_headers_as_a_key(fed: Fed) -> None:
    assert (await fed.want(issuers=[issuer()], desks=DESKS)).error == ""
    good = {"org": "acme", "desk": "rates", "key": "oidc:idp:u1", "scopes": "models:invoke", "walls": "rates"}
    async with fed.client() as client:

        async def ask(path=LIST, **other) -> httpx.Response:
            headers = {
                "authorization": f"Bearer {token(**other)}",
                "x-drw-scopes": "org:admin",
                "x-drw-walls": "m-and-a",
            }
            return await client.get(path, headers=headers)

        assert known(await ask()) == good
        assert known(await ask(aud=["x", "other"])) == good
        # What the desk may not hold, no role gives; what stands in lists may stand in one text.
        both = {"realm_access": {"roles": ["nobody", 'odd "role"\\', "trader"]}, "walls": "rates m-and-a nowhere"}
        more = {"scopes": "models:invoke models:read", "walls": "m-and-a rates"}
        assert known(await ask(**both)) == good | more
        odd = {"realm_access": {"roles": 'trader odd "role"\\'}, "desk": ["rates"], "walls": None}
        assert known(await ask(**odd)) == {k: v for k, v in good.items() if k != "walls"}
        assert known(await ask(sub="auth0|ä b/%"))["key"] == "oidc:idp:auth0|%C3%A4%20b%2F%25"
        # Good, and without the scope that the route asks for.
        answer = await ask(realm_access={"roles": []})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
        answer = await ask("/api/v1/me", realm_access=None)
        assert answer.status_code == 503  # let through to a service that does not run here
        # Good, and nobody here.
        assert "no such desk: 'nowhere'" in refused(await ask(desk="nowhere"))
        assert "no such desk: 'research'" in refused(await ask(desk="research"))  # another org's
        for desk in (None, ["rates", "quiet"], 7, {"name": "rates"}):
            assert "no such desk: ''" in refused(await ask(desk=desk))
        for firm in (None, "local", ["acme", "local"]):
            assert "another org" in refused(await ask(firm=firm))
        for sub in (None, "", 7, "x" * 129):
            if not isinstance(sub, int):  # which this library does not sign
                assert "names nobody" in refused(await ask(sub=sub))
        # A key of ours is still one, and says no more than it says.
        headers = {"authorization": f"Bearer {fed.sign('key_1', 'models:read')}"}
        assert known(await client.get(LIST, headers=headers))["key"] == "key_1"
        assert "there is no key" in refused(await client.get(LIST))
        assert (await client.get("/healthz?x")).text == "ok\n"
        answer = await client.get(LIST, headers=headers | {"authorization": f"Bearer {token()}"})
        assert "authorization" not in answer.json()["headers"]


def crafted(key, head: dict | bytes, body: dict) -> str:
    """Return a token with a good signature (RS256, or ES256 of a key on P-256) over whatever its header says."""
    raw = head if isinstance(head, bytes) else json.dumps(head).encode()
    said = b".".join(base64url_encode(part) for part in (raw, json.dumps(body).encode()))
    name = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
    return b".".join([said, base64url_encode(get_default_algorithms()[name].sign(said, key))]).decode()


HEADERS_REFUSED: list[dict[str, Any]] = [
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
"""What is refused beside a good signature (RFC 7515, RFC 7797, RFC 8725)."""


async def test_a_good_signature_does_not_make_up_for_the_header_of_a_token(fed: Fed) -> None:
    assert (await fed.want(issuers=[issuer()], desks=DESKS)).error == ""
    signing = fed.signing._key
    now = int(time.time())
    ours: dict[str, Any] = {"iss": "drw", "aud": "drw-gateway", "sub": "key_1", "org": "local", "desk": "research"}
    ours |= {"scope": "models:read", "iat": now, "exp": now + 600}
    async with fed.client() as client:

        async def ask(secret: str) -> httpx.Response:
            return await client.get(LIST, headers={"authorization": f"Bearer {secret}"})

        for key, base, body in [
            (THEIRS, {"alg": "RS256", "kid": "r1"}, claims(realm_access={"roles": ['odd "role"\\']})),
            (signing, {"alg": "ES256", "kid": fed.signing.kid}, ours),
        ]:
            for good in ({}, {"typ": "JWT"}, {"typ": "jwt"}, {"typ": "at+jwt"}, {"typ": "application/at+JWT"}):
                assert (await ask(crafted(key, base | good, body))).status_code == 200, good
            for bad in HEADERS_REFUSED:
                assert (await ask(crafted(key, base | bad, body))).status_code == 401, bad
            twice = json.dumps(base)[:-1].encode() + b', "crit": ["zzz"], "alg": "' + base["alg"].encode() + b'"}'
            for raw in (twice, b"[]", b'"x"', b"{", b"\xff"):
                refused(await ask(crafted(key, raw, body)))
            assert (await ask(crafted(key, base, body))).status_code == 200


async def test_a_token_that_is_not_good_is_refused(fed: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    small, other = Issuer(), rsa.generate_private_key(65537, 2048)
    small.CopyFrom(issuer(default_desk="quiet"))
    small.claims.org = ""
    assert (await fed.want(issuers=[small], desks=DESKS)).error == ""
    head, body, signature = token().split(".")
    none = jwt.encode(claims(), "", "none", headers={"kid": "r1"})
    # With the public key as a shared secret, as whoever confuses the two would check it.
    confused = jwt.api_jws.PyJWS()
    monkeypatch.setattr(confused._algorithms["HS256"], "prepare_key", lambda key: key)
    hs256 = confused.encode(json.dumps(claims()).encode(), PEM, "HS256", headers={"kid": "r1"})
    hs256_n = jwt.encode(claims(), PUBLIC["n"], "HS256", headers={"kid": "r1"})
    async with fed.client() as client:

        async def ask(secret: str) -> httpx.Response:
            return await client.get(LIST, headers={"authorization": f"Bearer {secret}"})

        assert known(await ask(token(desk=None, realm_access={"roles": ['odd "role"\\']})))["desk"] == "quiet"
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
            refused(await ask(bad))
        assert "has expired" in refused(await ask(token(exp=int(time.time()) - 60)))
        # Somebody else's org stays out of reach, whatever the token says.
        assert known(await ask(token(org="local", firm="local", scope="org:admin")))["org"] == "acme"
        assert (await fed.want()).error == ""
        refused(await ask(token()))


def test_what_a_record_says_stays_text_in_lua() -> None:
    found = lua_literal({"a": ['"]] end\\', "\n\0é"], "b": True, "c": None, "d": {}})
    assert found == '{["a"] = {"\\034]] end\\092", "\\010\\000\\195\\169"}, ["b"] = true, ["d"] = {}}'


class Authority:
    """Signs certificates, as a firm's own would."""

    def __init__(self, name: str = "firm") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._signed(name, self.key, [], name, ca=True)

    def write(self, folder: Path, name: str, *sans: x509.GeneralName, days: int = 1) -> tuple[str, str]:
        """Write a certificate with these names and its key; return their files."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self._signed(name, key, list(sans), self.certificate.subject.rfc4514_string()[3:], days=days)
        files = folder / f"{name}.pem", folder / f"{name}.key"
        files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
        private = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        files[1].write_bytes(key.private_bytes(*private))
        return str(files[0]), str(files[1])

    def _signed(self, name, key, sans, by, *, ca=False, days=1) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        subject, signer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, by))
        made = (
            x509.CertificateBuilder(signer, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=2))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            made = made.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        if sans:
            made = made.add_extension(x509.SubjectAlternativeName(sans), critical=False)
        return made.sign(self.key, hashes.SHA256())


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
async def pki(front_profile: Profile, tmp_path: Path):
    """A front door with TLS besides the plain one, and the authority whose certificates it takes."""
    firm, folder = Authority(), tmp_path / "certificates"
    folder.mkdir()
    certificate, key = firm.write(folder, "gateway", x509.DNSName("localhost"))
    ca = folder / "ca.pem"
    ca.write_bytes(firm.certificate.public_bytes(serialization.Encoding.PEM))
    tls = Tls(listen=f"127.0.0.1:{free_port('127.0.0.1')}", certificate=certificate, private_key=key, client_ca=ca)
    plane = envoy.data_plane_settings(front_profile).model_copy(update={"tls": tls})
    async with running(Fed(front_profile.model_copy(update={"data_plane": plane}))) as fed:
        yield fed, firm, folder


async def test_a_client_certificate_is_an_identity(pki: Any) -> None:
    fed, firm, folder = pki
    url = f"https://localhost:{fed.tls.listen.rpartition(':')[2]}"

    def client(files: tuple[str, str] | None = None, secret: str = "") -> httpx.AsyncClient:
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        if files:
            context.load_cert_chain(*files)
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        return httpx.AsyncClient(base_url=url, verify=context, headers=headers, timeout=30, trust_env=False)

    async def ask(files=None, secret: str = "", **headers: str) -> httpx.Response:
        async with client(files, secret) as asking:
            return await asking.get(LIST, headers=headers)

    def named(name: str, *sans: x509.GeneralName, **more) -> tuple[str, str]:
        return firm.write(folder, name, *sans, **more)

    pricing = named("pricing", PRICING)
    refused(await ask(pricing))  # nobody has said yet for whom it stands
    assert (await fed.want(certificates=CERTIFICATES, desks=DESKS, issuers=[issuer()], revoked=["key_bad"])).error == ""
    good = {"org": "acme", "desk": "rates", "key": "cert:pricing", "scopes": "models:invoke", "walls": "rates"}
    assert known(await ask(pricing, **{"x-drw-scopes": "org:admin", "x-drw-org": "local"})) == good
    assert known(await ask(named("batch", BATCH)))["key"] == "cert:batch"
    # Several callers in one, none of ours, or of a desk that is gone.
    assert "several callers" in refused(await ask(named("both", PRICING, BATCH)))
    assert "stands for nobody here" in refused(await ask(named("none", x509.DNSName("x.firm.example"))))
    assert "stands for nobody here" in refused(await ask(named("bare")))
    assert "stands for nobody" in refused(
        await ask(named("lost", x509.UniformResourceIdentifier("spiffe://firm/lost")))
    )
    # Without a certificate a key is needed; with both the bearer decides, for better or worse.
    assert "there is no key" in refused(await ask())
    key = fed.sign("key_1", "models:read")
    assert known(await ask(secret=key))["key"] == "key_1"
    assert known(await ask(pricing, key)) == {
        "org": "local",
        "desk": "research",
        "key": "key_1",
        "scopes": "models:read",
    }
    assert known(await ask(pricing, token()))["key"] == "oidc:idp:u1"
    for bad in (fed.sign("key_bad", "models:read"), token(aud="x"), "sk-something", key[:-9] + "AAAAAAAAA"):
        refused(await ask(pricing, bad))
    for other in ("Basic dTpw", "BEARER x", ""):
        assert "not valid" in refused(await ask(pricing, **{"authorization": other}))
    # What another authority signed, or what has ended, ends in the handshake.
    for files in (Authority().write(folder, "forged", PRICING), named("old", PRICING, days=-1)):
        with pytest.raises((httpx.TransportError, ssl.SSLError)):
            await ask(files)
    # The plain door knows no certificates.
    async with fed.client() as plain:
        assert "there is no key" in refused(await plain.get(LIST))
        forged = {"x-forwarded-client-cert": "URI=spiffe://firm/pricing"}
        assert "there is no key" in refused(await plain.get(LIST, headers=forged))
        assert known(await plain.get(LIST, headers={"authorization": f"Bearer {key}"}))["key"] == "key_1"


async def test_a_renewed_server_certificate_counts_at_once(pki: Any) -> None:
    fed, firm, folder = pki
    host, _, port = fed.tls.listen.partition(":")

    async def serial() -> int:
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        transport = httpx.AsyncHTTPTransport(verify=context)
        async with (
            httpx.AsyncClient(base_url=f"https://localhost:{port}", transport=transport) as client,
            client.stream("GET", "/healthz") as answer,
        ):
            der = answer.extensions["network_stream"].get_extra_info("ssl_object").getpeercert(binary_form=True)
            return x509.load_der_x509_certificate(der).serial_number

    first = await serial()
    for name in firm.write(folder, "next", x509.DNSName("localhost")):
        Path(name).replace(folder / f"gateway{Path(name).suffix}")

    async def renewed() -> bool:
        return await serial() != first

    await until(renewed, "the new certificate")
