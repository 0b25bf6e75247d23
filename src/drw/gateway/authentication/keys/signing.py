"""Signs API keys: JWTs (RFC 7519, ES256) with the caller, its scopes and its walls."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

ALGORITHM = "ES256"


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims of an API key."""

    key: str
    org: str
    desk: str
    scopes: tuple[str, ...]
    issued_at: datetime
    expires_at: datetime
    walls: tuple[str, ...] = ()


class Signer:
    """Signs with one private key."""

    def __init__(self, private_pem: str, issuer: str, audience: str) -> None:
        key = serialization.load_pem_private_key(private_pem.encode(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key
        self._issuer = issuer
        self._audience = audience
        self.kid = key_id(key)

    def __repr__(self) -> str:
        return f"Signer({self.kid!r})"

    def sign(self, claims: Claims) -> str:
        """Return the signed token, which is the secret that the client sends."""
        payload: dict[str, Any] = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": claims.key,
            "jti": claims.key,
            "org": claims.org,
            "desk": claims.desk,
            "scope": " ".join(claims.scopes),
            "iat": int(claims.issued_at.timestamp()),
            "exp": int(claims.expires_at.timestamp()),
        }
        if claims.walls:  # most keys have none
            payload["walls"] = " ".join(claims.walls)
        return jwt.encode(payload, self._key, algorithm=ALGORITHM, headers={"kid": self.kid})

    def public_jwk(self) -> dict[str, Any]:
        """Return the public key as a JSON Web Key (RFC 7517)."""
        jwk: dict[str, Any] = json.loads(ECAlgorithm.to_jwk(self._key.public_key()))
        return jwk | {"kid": self.kid, "alg": ALGORITHM, "use": "sig"}


def new_private_key() -> str:
    """Return a new private key on the curve P-256, as PEM."""
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem.decode()


def key_id(key: ec.EllipticCurvePrivateKey) -> str:
    """Return the id of a signing key: the first 16 hexadecimal digits of the SHA-256 of its public key."""
    public_key = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(public_key).hexdigest()[:16]


def jwks(signers: Iterable[Signer]) -> str:
    """Return the public keys as a JSON Web Key Set, sorted by id."""
    keys = sorted((signer.public_jwk() for signer in signers), key=lambda key: str(key["kid"]))
    return json.dumps({"keys": keys}, sort_keys=True)
