"""Signature bundles of OpenSSF Model Signing v1.0: parsing of bundle, envelope and statement.

Specification: https://github.com/ossf/model-signing-spec/blob/main/spec/v1.0.md. Nothing here is trusted yet:
`verification.verify` checks the signature before it reads the statement.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any, Literal

from drw.model_files import strict_json
from drw.model_files.errors import SignatureRejected
from drw.model_files.limits import DEFAULT, Limits

Method = Literal["key", "certificate", "sigstore"]
MEDIA_TYPES = re.compile(r"application/vnd\.dev\.sigstore\.bundle(\.v0\.3\+json|\+json;version=0\.[123])")
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
SHA256 = re.compile(r"[0-9a-f]{64}")
MATERIAL: dict[str, Method] = {
    "publicKey": "key",
    "x509CertificateChain": "certificate",
    "certificate": "sigstore",
}


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle. `key_hint` is the SHA-256 of the public key in PEM; empty in bundles from before version 1.1."""

    method: Method
    payload: bytes
    signature: bytes
    key_hint: str = ""
    certificates: tuple[bytes, ...] = ()
    """DER: the certificate of the signer, then those of its issuers."""

    @property
    def signed_bytes(self) -> bytes:
        """The bytes that are signed: the pre-authentication encoding of DSSE."""
        return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(self.payload), self.payload)


@dataclass(frozen=True, slots=True)
class Statement:
    """What a signer states: the SHA-256 of each file by path."""

    root_digest: str
    resources: dict[str, str]


def parse_bundle(data: bytes, limits: Limits = DEFAULT) -> Bundle:
    """Return the parsed bundle.

    Raises:
        SignatureRejected: the bundle is malformed or too large.
    """
    if len(data) > limits.bundle_bytes:
        raise SignatureRejected(f"the bundle has more than {limits.bundle_bytes:,} bytes")
    bundle = _object(_json(data, "the bundle"), "the bundle")
    if not MEDIA_TYPES.fullmatch(str(bundle.get("mediaType"))):
        raise SignatureRejected(f"the bundle has the media type {str(bundle.get('mediaType'))[:100]!r}")
    material = _object(bundle.get("verificationMaterial"), "verificationMaterial")
    envelope = _object(bundle.get("dsseEnvelope"), "dsseEnvelope")
    methods = [MATERIAL[name] for name in MATERIAL if name in material]
    if len(methods) != 1:
        raise SignatureRejected("verificationMaterial must have one of publicKey, x509CertificateChain or certificate")
    if envelope.get("payloadType") != PAYLOAD_TYPE:
        raise SignatureRejected(f"the payload type is {str(envelope.get('payloadType'))[:100]!r}, not {PAYLOAD_TYPE!r}")
    signatures = envelope.get("signatures")
    if not isinstance(signatures, list) or len(signatures) != 1:
        raise SignatureRejected("dsseEnvelope must have exactly one signature")
    return Bundle(
        method=methods[0],
        payload=_base64(envelope.get("payload"), "the payload"),
        signature=_base64(_object(signatures[0], "the signature").get("sig"), "the signature"),
        key_hint=_key_hint(material) if methods[0] == "key" else "",
        certificates=_certificates(material, methods[0], limits),
    )


def parse_statement(payload: bytes) -> Statement:
    """Return the statement of a verified payload.

    Raises:
        SignatureRejected: the payload is not a statement of Model Signing v1.0, or uses shards or another hash.
    """
    statement = _object(_json(payload, "the statement"), "the statement")
    for key, expected in (("_type", STATEMENT_TYPE), ("predicateType", PREDICATE_TYPE)):
        if statement.get(key) != expected:
            raise SignatureRejected(f"{key} of the statement is {str(statement.get(key))[:100]!r}, not {expected!r}")
    predicate = _object(statement.get("predicate"), "predicate")
    serialization = _object(predicate.get("serialization"), "serialization")
    if serialization.get("method") != "files" or serialization.get("hash_type") != "sha256":
        method, kind = (str(serialization.get(key))[:20] for key in ("method", "hash_type"))
        raise SignatureRejected(f"the files are signed as {method!r} with {kind!r}; supported is 'files' with 'sha256'")
    return Statement(_root_digest(statement.get("subject")), _resources(predicate.get("resources")))


def _root_digest(subjects: Any) -> str:
    if not isinstance(subjects, list) or len(subjects) != 1:
        raise SignatureRejected("the statement must have exactly one subject")
    digest = _object(_object(subjects[0], "the subject").get("digest"), "the digest of the subject").get("sha256")
    if not isinstance(digest, str) or not SHA256.fullmatch(digest):
        raise SignatureRejected("the subject has no SHA-256 digest")
    return digest


def _resources(resources: Any) -> dict[str, str]:
    if not isinstance(resources, list) or not resources:
        raise SignatureRejected("the statement lists no files")
    found: dict[str, str] = {}
    for resource in resources:
        resource = _object(resource, "a resource")
        name, digest = resource.get("name"), resource.get("digest")
        if not isinstance(name, str) or not isinstance(digest, str) or not SHA256.fullmatch(digest):
            raise SignatureRejected("a resource has no name or no SHA-256 digest")
        if resource.get("algorithm") != "sha256":
            raise SignatureRejected(
                f"{name[:100]!r} is signed with {str(resource.get('algorithm'))[:20]!r}, not 'sha256'"
            )
        if name in found:
            raise SignatureRejected(f"the statement lists {name[:100]!r} twice")
        found[name] = digest
    return found


def _key_hint(material: dict[str, Any]) -> str:
    key = _object(material["publicKey"], "publicKey")
    hint = key.get("hint")
    if not isinstance(hint, str | None) or not (hint or key.get("rawBytes")):
        raise SignatureRejected("publicKey has neither hint nor rawBytes")
    return hint or ""


def _certificates(material: dict[str, Any], method: Method, limits: Limits) -> tuple[bytes, ...]:
    if method == "key":
        return ()
    listed: Any
    if method == "sigstore":
        if not isinstance(entries := material.get("tlogEntries"), list) or not entries:
            raise SignatureRejected("a keyless signature needs an entry of the transparency log (tlogEntries)")
        listed = [material["certificate"]]
    else:
        listed = _object(material["x509CertificateChain"], "x509CertificateChain").get("certificates")
    if not isinstance(listed, list) or not 0 < len(listed) <= limits.certificates:
        raise SignatureRejected(f"the bundle must have 1 to {limits.certificates} certificates")
    return tuple(_base64(_object(each, "a certificate").get("rawBytes"), "a certificate") for each in listed)


def _json(data: bytes, of: str) -> Any:
    try:
        return strict_json.load(data)
    except strict_json.NotStrictJson as error:
        raise SignatureRejected(f"{of} cannot be read: {error}") from error


def _object(value: Any, of: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SignatureRejected(f"{of} is missing or not a JSON object")
    return value


def _base64(value: Any, of: str) -> bytes:
    try:
        if isinstance(value, str) and value:
            return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise SignatureRejected(f"{of} is missing or not base64")
