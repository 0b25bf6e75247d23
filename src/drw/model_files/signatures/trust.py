"""Trust policy of model signatures: trusted public keys and certificate roots, and path validation of certificates.

Everything works offline. Revocation is not checked: remove a key or root from the policy to stop trusting it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from drw.kernel.errors import InvalidRequest
from drw.model_files.errors import SignatureRejected

HASHES: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
"""Permitted curves, each with the hash of its signatures (algorithm registry of Model Signing)."""
WEAK = (hashes.MD5, hashes.SHA1)
MIN_RSA_BITS = 2048
MAX_TRUSTED = 64
MAX_PATH = 6
UNDERSTOOD = (x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage, x509.SubjectAlternativeName)
"""Extensions that may be critical."""
T = TypeVar("T", bound=x509.ExtensionType)
MALFORMED = (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension)


@dataclass(frozen=True, slots=True)
class TrustPolicy:
    """Trusted signers. Empty: no signature is valid.

    Attributes:
        keys: public keys by fingerprint (SHA-256 of the key in PEM).
        roots: certificates of authorities. Any certificate for code signing that they issue is trusted.
    """

    keys: dict[str, ec.EllipticCurvePublicKey]
    roots: tuple[x509.Certificate, ...] = ()

    @classmethod
    def load(cls, public_keys: Iterable[bytes] = (), roots: Iterable[bytes] = ()) -> TrustPolicy:
        """Return the policy from PEM files: one public key each, one or more root certificates each.

        Raises:
            InvalidRequest: a file is not PEM, or a key is not P-256, P-384 or P-521.
        """
        keys = {fingerprint(key): key for key in map(_public_key, public_keys)}
        certificates = tuple(certificate for pem in roots for certificate in _root_certificates(pem))
        if len(keys) + len(certificates) > MAX_TRUSTED:
            raise InvalidRequest(f"at most {MAX_TRUSTED} public keys and certificates can be trusted")
        return cls(keys, certificates)

    def certificate_key(self, chain: Sequence[bytes], at: datetime) -> tuple[ec.EllipticCurvePublicKey, str]:
        """Return key and subject of a signer's certificate that a trusted root has issued, directly or indirectly.

        Args:
            chain: DER certificates, the signer's first.
            at: the time at which all certificates must be valid, with a time zone.

        Raises:
            SignatureRejected: a certificate is malformed, not valid at that time, not for code signing, or untrusted.
        """
        try:
            signer, *issuers = [x509.load_der_x509_certificate(each) for each in chain]
            _check_signer(signer, at)
            _check_path(signer, issuers, self.roots, at)
            return signing_key(signer.public_key()), signer.subject.rfc4514_string()
        except MALFORMED as error:
            raise SignatureRejected(f"a certificate is malformed: {str(error)[:200]}") from error


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """Return the SHA-256 of a public key in PEM, as bundles name it."""
    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def signing_key(key: object) -> ec.EllipticCurvePublicKey:
    """Return the key if it is of a permitted curve.

    Raises:
        SignatureRejected: it is not.
    """
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in HASHES:
        raise SignatureRejected("the key is not an ECDSA key on P-256, P-384 or P-521")
    return key


def _public_key(pem: bytes) -> ec.EllipticCurvePublicKey:
    try:
        return signing_key(load_pem_public_key(pem))
    except SignatureRejected as error:
        raise InvalidRequest(error.message) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidRequest(
            "the public key is not a PEM file that begins with '-----BEGIN PUBLIC KEY-----'"
        ) from error


def _root_certificates(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise InvalidRequest("the certificate root is not a PEM file of certificates") from error


def _check_path(
    certificate: x509.Certificate, issuers: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], at: datetime
) -> None:
    """Find the issuers of a certificate up to a trusted root. Each certificate is used once."""
    left = list(issuers)
    for intermediates in range(MAX_PATH):
        if any(_issued(certificate, root) for root in roots if _can_issue(root, intermediates, at)):
            return
        issuer = next(
            (each for each in left if _can_issue(each, intermediates, at) and _issued(certificate, each)), None
        )
        if issuer is None:
            break
        left.remove(issuer)
        certificate = issuer
    raise SignatureRejected("the certificate does not lead to a trusted root through valid certificates of authorities")


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Return whether names and signature match, with algorithms that are not weak."""
    key = issuer.public_key()
    if isinstance(certificate.signature_hash_algorithm, WEAK):
        return False
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, *MALFORMED):
        return False
    return True


def _can_issue(issuer: x509.Certificate, intermediates: int, at: datetime) -> bool:
    """Return whether a certificate is valid as an authority above this number of intermediate authorities."""
    if not _is_valid(issuer, at):
        return False
    try:
        constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return False
    usage = _extension(issuer, x509.KeyUsage)
    enough = constraints.path_length is None or constraints.path_length >= intermediates
    return constraints.ca and enough and (usage is None or usage.key_cert_sign)


def _check_signer(certificate: x509.Certificate, at: datetime) -> None:
    if not _is_valid(certificate, at):
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        raise SignatureRejected(
            f"the certificate is valid from {begin:%Y-%m-%d} to {end:%Y-%m-%d} and must have no unknown critical "
            f"extension; it is checked for {at:%Y-%m-%d}"
        )
    usage, extended = _extension(certificate, x509.KeyUsage), _extension(certificate, x509.ExtendedKeyUsage)
    if usage is not None and not usage.digital_signature:
        raise SignatureRejected("the certificate is not for signatures (KeyUsage digitalSignature)")
    if extended is None or ExtendedKeyUsageOID.CODE_SIGNING not in extended:
        raise SignatureRejected("the certificate is not for code signing (ExtendedKeyUsage codeSigning)")


def _is_valid(certificate: x509.Certificate, at: datetime) -> bool:
    unknown = [e for e in certificate.extensions if e.critical and not isinstance(e.value, UNDERSTOOD)]
    return not unknown and certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc


def _extension(certificate: x509.Certificate, kind: type[T]) -> T | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
