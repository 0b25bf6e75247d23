"""Parses JSON Web Key Sets (RFC 7517) of issuers, and keeps only public signing keys."""

from __future__ import annotations

import json
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from drw.kernel.errors import InvalidRequest
from drw.kernel.storage.audit import digest

DEFAULT_CACHE_SECONDS = 300
MAX_BYTES = 256 << 10
MAX_KEYS = 50
MIN_RSA_BITS = 2048
PUBLIC = {"EC": ("crv", "x", "y"), "OKP": ("crv", "x"), "RSA": ("n", "e")}
CURVES = {"EC": ("P-256", "P-384", "P-521"), "OKP": ("Ed25519",)}
ALGORITHMS = {
    "P-256": ("ES256",),
    "P-384": ("ES384",),
    "P-521": ("ES512",),
    "Ed25519": ("EdDSA",),
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
}
"""Algorithms by curve, or by key type for types without curves."""
PRIVATE = ("d", "p", "q", "k")
MAX_KID = 200
MAX_AUDITED_KIDS = 20
"""Maximum number of key ids in an audit record; a digest covers all of them."""


class InvalidKeySet(InvalidRequest):
    """The key set is malformed, has a private key, or has no usable key."""


def read(text: str | bytes) -> str:
    """Return the normalised set with only public signing keys.

    Symmetric keys are rejected: a verifier could sign with them, and a public key used as one would let anyone issue
    tokens.

    Raises:
        InvalidKeySet: the set is malformed, has a private or a symmetric key, or has no usable key.
    """
    if len(text) > MAX_BYTES:
        raise InvalidKeySet(f"a JWKS of {len(text)} bytes; it can have {MAX_BYTES}", param="jwks")
    try:
        keys = json.loads(text)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidKeySet('a JWKS is a JSON object with a list of "keys" (RFC 7517)', param="jwks") from error
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys) or len(keys) > MAX_KEYS:
        raise InvalidKeySet(f'"keys" of a JWKS is a list of at most {MAX_KEYS} objects', param="jwks")
    public_keys = [_public_key(key) for key in keys if _is_signing_key(key)]
    if not public_keys:
        raise InvalidKeySet(
            "the JWKS has no key for signatures that can be used here: RSA from 2048 bits, EC on P-256, P-384 or "
            "P-521, or Ed25519",
            param="jwks",
        )
    return json.dumps({"keys": sorted(public_keys, key=lambda key: json.dumps(key, sort_keys=True))}, sort_keys=True)


def kids(text: str) -> list[str]:
    """Return the ids of the keys in a set that `read` returned."""
    return [key["kid"] for key in json.loads(text)["keys"] if "kid" in key] if text else []


def audit_summary(text: str) -> dict[str, Any]:
    """Return a bounded summary of a key set for the audit log; different sets have different summaries."""
    return {"kids": [kid[:MAX_KID] for kid in kids(text)[:MAX_AUDITED_KIDS]], "digest": digest(text)}


def _is_signing_key(key: dict[str, Any]) -> bool:
    """Return whether a key can verify signatures here.

    Raises:
        InvalidKeySet: it is a private or a symmetric key.
    """
    kind = key.get("kty")
    if kind == "oct" or any(member in key for member in PRIVATE):
        raise InvalidKeySet("the JWKS has a symmetric or a private key: only public keys belong there", param="jwks")
    if not isinstance(kind, str) or kind not in PUBLIC or key.get("use", "sig") != "sig":
        return False
    if kind in CURVES and key.get("crv") not in CURVES[kind]:
        return False
    return "alg" not in key or key["alg"] in _algorithms(key)


def _algorithms(key: dict[str, Any]) -> tuple[str, ...]:
    return ALGORITHMS[key["crv"] if key["kty"] in CURVES else key["kty"]]


def _public_key(key: dict[str, Any]) -> dict[str, str]:
    """Return the key with only its public members, checked."""
    members = {name: key.get(name) for name in ("kty", *PUBLIC[key["kty"]])}
    members |= {name: key[name] for name in ("kid", "alg") if name in key}
    if not all(isinstance(value, str) and len(value) < 4096 for value in members.values()):
        raise InvalidKeySet("a key of the JWKS lacks a part, or has one that is no text", param="jwks")
    kid = str(members.get("kid", ""))
    if len(kid) > MAX_KID or not (kid.isascii() and kid.isprintable()):
        raise InvalidKeySet(f"a `kid` of the JWKS is not at most {MAX_KID} printable ASCII characters", param="jwks")
    try:
        public_key = jwt.PyJWK(members, algorithm=members.get("alg") or _algorithms(key)[0]).key
    except (jwt.PyJWTError, ValueError) as error:
        raise InvalidKeySet(f"a key of the JWKS cannot be read: {str(error)[:200]}", param="jwks") from error
    if isinstance(public_key, rsa.RSAPublicKey) and public_key.key_size < MIN_RSA_BITS:
        raise InvalidKeySet(f"an RSA key of {public_key.key_size} bits; it needs {MIN_RSA_BITS}", param="jwks")
    return {name: str(value) for name, value in members.items()} | {"use": "sig"}
