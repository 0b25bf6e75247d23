"""Keys, certificates and bundles: signed by the reference implementation, or assembled field by field."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from drw.model_files.manifest import digest
from drw.model_files.signatures.bundle import PAYLOAD_TYPE, PREDICATE_TYPE, STATEMENT_TYPE
from support.json_types import Json, JsonObject

NOW = datetime(2026, 6, 1, tzinfo=UTC)
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def private_key(curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(curve or ec.SECP256R1())


def public_pem(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def hint(key: PrivateKey) -> str:
    return hashlib.sha256(public_pem(key)).hexdigest()


@dataclass
class Authority:
    """A certificate with its key, and what it issues."""

    key: PrivateKey
    certificate: x509.Certificate

    @classmethod
    def root(cls, name: str = "root", **options: Json) -> Authority:
        key = private_key()
        return cls(key, _certificate(name, key, name, key, ca=True, **options))

    def authority(self, name: str, **options: Json) -> Authority:
        key = options.pop("key", None) or private_key()
        return Authority(key, self._issue(name, key, ca=True, **options))

    def signer(self, name: str = "signer", key: PrivateKey | None = None, **options: Json) -> Authority:
        key = key or private_key()
        return Authority(key, self._issue(name, key, ca=False, **options))

    def _issue(self, name: str, key: PrivateKey, **options: Json) -> x509.Certificate:
        issuer = self.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        return _certificate(name, key, str(issuer), self.key, **options)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def der(self) -> str:
        return base64.b64encode(self.certificate.public_bytes(Encoding.DER)).decode()


def _certificate(
    name: str,
    key: PrivateKey,
    issuer: str,
    issuer_key: PrivateKey,
    *,
    ca: bool,
    days: tuple[int, int] = (-30, 300),
    path_length: int | None = None,
    usage: bool = True,
    purpose: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CODE_SIGNING,
    critical: x509.ExtensionType | None = None,
) -> x509.Certificate:
    named = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (name, issuer)]
    builder = x509.CertificateBuilder(
        issuer_name=named[1],
        subject_name=named[0],
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=NOW + timedelta(days=days[0]),
        not_valid_after=NOW + timedelta(days=days[1]),
    )
    builder = builder.add_extension(x509.BasicConstraints(ca, path_length if ca else None), critical=True)
    flags = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
        + ("crl_sign", "encipher_only", "decipher_only"),
        False,
    )
    builder = builder.add_extension(
        x509.KeyUsage(digital_signature=usage and not ca, key_cert_sign=usage and ca, **flags), critical=True
    )
    if purpose is not None and not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    if critical is not None:
        builder = builder.add_extension(critical, critical=True)
    return builder.sign(issuer_key, hashes.SHA256())


@dataclass
class Draft:
    """A bundle whose parts a test replaces before `data` signs it."""

    key: ec.EllipticCurvePrivateKey
    statement: JsonObject
    material: JsonObject = field(default_factory=dict)
    payload_type: str = PAYLOAD_TYPE
    media_type: str = "application/vnd.dev.sigstore.bundle.v0.3+json"
    signatures: int = 1

    @classmethod
    def of(cls, model: Path, key: ec.EllipticCurvePrivateKey, *chain: Authority) -> Draft:
        manifest = digest(model)
        resources = [{"name": f.path, "digest": f.sha256, "algorithm": "sha256"} for f in manifest.files]
        statement = {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": manifest.name, "digest": {"sha256": manifest.root_digest}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "resources": resources,
                "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
            },
        }
        draft = cls(key, statement)
        draft.material = draft.certificates(*chain) if chain else {"publicKey": {"hint": hint(key)}}
        return draft

    @staticmethod
    def certificates(*chain: Authority) -> JsonObject:
        return {"x509CertificateChain": {"certificates": [{"rawBytes": each.der} for each in chain]}}

    @property
    def resources(self) -> list[dict[str, str]]:
        resources: list[JsonObject] = self.statement["predicate"]["resources"]
        return resources

    def value(self) -> JsonObject:
        payload = json.dumps(self.statement).encode()
        kind = self.payload_type.encode()
        signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
        algorithms = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
        algorithm = algorithms.get(self.key.curve.key_size, hashes.SHA256())
        signature = base64.b64encode(self.key.sign(signed, ec.ECDSA(algorithm))).decode()
        return {
            "mediaType": self.media_type,
            "verificationMaterial": self.material,
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": self.payload_type,
                "signatures": [{"sig": signature, "keyid": ""}] * self.signatures,
            },
        }

    @property
    def data(self) -> bytes:
        return json.dumps(self.value()).encode()
