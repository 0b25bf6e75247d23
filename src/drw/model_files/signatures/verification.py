"""Verification of model signatures (OpenSSF Model Signing v1.0) against a trust policy, offline."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from drw.model_files.errors import SignatureRejected
from drw.model_files.limits import DEFAULT, Limits
from drw.model_files.manifest import Manifest
from drw.model_files.signatures.bundle import Bundle, Method, Statement, parse_bundle, parse_statement
from drw.model_files.signatures.trust import HASHES, TrustPolicy, fingerprint

MAX_REASONS = 20


@dataclass(frozen=True, slots=True)
class Verified:
    """A valid signature. `signer` is the subject of the certificate, or the fingerprint of the key."""

    method: Method
    signer: str
    fingerprint: str


def verify(
    bundle: bytes,
    manifest: Manifest,
    policy: TrustPolicy,
    *,
    at: datetime | None = None,
    limits: Limits = DEFAULT,
) -> Verified:
    """Verify that a trusted signer has signed exactly the files of a manifest.

    Args:
        at: the time at which certificates must be valid; default: now. Bundles without a trusted timestamp do not
            prove the time of the signature.

    Raises:
        SignatureRejected: the reason.
    """
    parsed = parse_bundle(bundle, limits)
    key, signer = _key(parsed, policy, at or datetime.now(UTC))
    statement = parse_statement(parsed.payload)
    _check_files(statement, manifest)
    return Verified(parsed.method, signer, fingerprint(key))


def _key(bundle: Bundle, policy: TrustPolicy, at: datetime) -> tuple[ec.EllipticCurvePublicKey, str]:
    """Return the trusted key that has made the signature, and the name of its owner."""
    if bundle.method == "sigstore":
        raise SignatureRejected(
            "the signature is keyless (Sigstore), which is not supported; sign with a key or a certificate"
        )
    if bundle.method == "certificate":
        key, signer = policy.certificate_key(bundle.certificates, at)
        if not _signed(bundle, key):
            raise SignatureRejected("the signature does not match the key of the certificate")
        return key, signer
    hinted = [policy.keys[bundle.key_hint]] if bundle.key_hint in policy.keys else []
    for key in hinted if bundle.key_hint else policy.keys.values():
        if _signed(bundle, key):
            return key, f"key {fingerprint(key)}"
    raise SignatureRejected(
        "the signature does not match the trusted key" if hinted else "the signature is not from a trusted public key"
    )


def _signed(bundle: Bundle, key: ec.EllipticCurvePublicKey) -> bool:
    try:
        key.verify(bundle.signature, bundle.signed_bytes, ec.ECDSA(HASHES[key.curve.name]))
    except InvalidSignature:
        return False
    return True


def _check_files(statement: Statement, manifest: Manifest) -> None:
    """Compare all files in both directions. `ignore_paths` of the signer count only where the caller excludes them."""
    joined = b"".join(bytes.fromhex(digest) for digest in statement.resources.values())
    if hashlib.sha256(joined).hexdigest() != statement.root_digest:
        raise SignatureRejected("the statement is inconsistent: its root digest does not match its files")
    files = {file.path: file.sha256 for file in manifest.files}
    signed = statement.resources
    if list(signed) == ["."] and len(files) == 1:  # a single file, in bundles from before version 1.1
        signed = dict(zip(files, signed.values(), strict=True))
    reasons = [
        *(f"{path} is signed but missing" for path in signed if path not in files),
        *(f"{path} is not signed" for path in files if path not in signed),
        *(f"{path} differs from the signed file" for path in files if path in signed and signed[path] != files[path]),
    ]
    if reasons:
        raise SignatureRejected(*reasons[:MAX_REASONS])
