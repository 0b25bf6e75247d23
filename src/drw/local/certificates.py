"""Certificate authority of one machine: issues the identities of a platform's processes and services, and renews them.

Certificates are X.509-SVIDs of SPIFFE with one more name, `NAME.TRUST-DOMAIN`, for the check of servers in gRPC.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from drw.catalog import AGENT, BY_NAME
from drw.kernel.rpc.identities import label, spiffe_id
from drw.kernel.rpc.transport import OPERATOR
from drw.kernel.runtime.settings import MutualTls, Profile

AUTHORITY_DAYS = 365
AUTHORITY_OVERLAP_DAYS = 30
"""A new authority is made this long before the end of the old one; until then both are trusted."""
TRUST_MINUTES = 60
"""Time for which a new authority is trusted before it issues, so that every process has read it."""
CERTIFICATE_HOURS = 24
RENEWAL_SECONDS = 600.0
"""Interval at which certificates past half of their lifetime are looked for."""
CLOCK_SKEW = timedelta(minutes=5)
PROCESS = "process"
"""The name under which every process serves its status."""

Key = ec.EllipticCurvePrivateKey


def server_names(profile: Profile) -> dict[str, set[str]]:
    """Return all identities of a profile with the names that each serves under; clients serve under their own."""
    names = {name: {name} for name in (*BY_NAME, AGENT, OPERATOR)}
    for process, address in profile.processes.items():
        names.setdefault(process, set()).update({process, PROCESS, *address.services})
    return names


@dataclass(frozen=True, slots=True)
class _Authority:
    certificate: x509.Certificate
    key: Key


class CertificateAuthority:
    """Keeps the authority and the identities in the folder of `mtls`, readable by this user only."""

    def __init__(self, mtls: MutualTls) -> None:
        self._mtls = mtls

    def renew(self, names: Mapping[str, Iterable[str]], now: datetime | None = None) -> list[str]:
        """Issue the identities that are missing, have other names, or are past half of their lifetime; return them.

        `names` maps each identity to the names that it serves under.
        """
        now = now or datetime.now(UTC)
        self._mtls.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._remove_drafts()
        authorities = self._authorities(now)
        issuer = _issuer(authorities, now)
        bundle = b"".join(_pem(authority.certificate) for authority in authorities)
        for name in names:
            self._trust(name, bundle)
        due = [name for name, served in names.items() if self._is_due(name, served, now)]
        for name in due:
            self._issue(name, names[name], issuer, bundle, now)
        return due

    def _authorities(self, now: datetime) -> list[_Authority]:
        """Return the trusted authorities, oldest first, with a new one if the last one ends soon."""
        folder = self._mtls.folder / "authority"
        authorities = [_read_authority(each) for each in sorted(folder.glob("[0-9]*")) if (each / "tls.crt").exists()]
        valid = [each for each in authorities if each.certificate.not_valid_after_utc > now]
        if not valid or valid[-1].certificate.not_valid_after_utc < now + timedelta(days=AUTHORITY_OVERLAP_DAYS):
            authority = _new_authority(self._mtls.trust_domain, now)
            _write(folder / f"{int(now.timestamp()):012}", authority.certificate, authority.key, b"")
            valid.append(authority)
        return valid

    def _remove_drafts(self) -> None:
        """Remove what a killed process left behind."""
        used = {link.resolve() for link in self._mtls.folder.iterdir() if link.is_symlink()}
        for draft in self._mtls.folder.glob(".*"):
            if draft.is_symlink():
                draft.unlink()
            elif draft.resolve() not in used:
                shutil.rmtree(draft)

    def _trust(self, name: str, bundle: bytes) -> None:
        folder = self._mtls.folder / label(name)
        if folder.exists() and (folder / "ca.crt").read_bytes() != bundle:
            self._replace(name, {file: (folder / file).read_bytes() for file in ("tls.crt", "tls.key")}, bundle)

    def _is_due(self, name: str, served: Iterable[str], now: datetime) -> bool:
        path = self._mtls.folder / label(name) / "tls.crt"
        if not path.exists():
            return True
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        return now > certificate.not_valid_before_utc + lifetime / 2 or certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        ).value != self._names(name, served)

    def _names(self, name: str, served: Iterable[str]) -> x509.SubjectAlternativeName:
        mtls = self._mtls
        uri = x509.UniformResourceIdentifier(spiffe_id(mtls.trust_domain, mtls.namespace, name))
        return x509.SubjectAlternativeName(
            [uri, *(x509.DNSName(f"{label(each)}.{mtls.trust_domain}") for each in sorted(served))]
        )

    def _issue(self, name: str, served: Iterable[str], authority: _Authority, bundle: bytes, now: datetime) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        end = min(now + timedelta(hours=CERTIFICATE_HOURS), authority.certificate.not_valid_after_utc)
        certificate = (
            _builder(x509.Name([]), authority.certificate.subject, key, now, end)
            .add_extension(self._names(name, served), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
            )
            .sign(authority.key, hashes.SHA256())
        )
        self._replace(name, {"tls.crt": _pem(certificate), "tls.key": _private_pem(key)}, bundle)

    def _replace(self, name: str, files: Mapping[str, bytes], bundle: bytes) -> None:
        """Replace the files of an identity together: they are in a new folder, to which a link is moved."""
        link = self._mtls.folder / label(name)
        old = link.resolve() if link.exists() else None
        folder = self._mtls.folder / f".{link.name}-{os.urandom(8).hex()}"
        _write_files(folder, {**files, "ca.crt": bundle})
        draft = folder.with_suffix(".link")
        draft.symlink_to(folder.name)
        draft.replace(link)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)


def _issuer(authorities: list[_Authority], now: datetime) -> _Authority:
    """Return the newest authority that has been trusted for long enough to be known to every process."""
    trusted_since = now - CLOCK_SKEW - timedelta(minutes=TRUST_MINUTES)
    known = [each for each in authorities if each.certificate.not_valid_before_utc <= trusted_since]
    return known[-1] if known else authorities[0]


def _new_authority(trust_domain: str, now: datetime) -> _Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, f"{trust_domain} authority"[:64]),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, os.urandom(8).hex()),
        ]
    )
    certificate = (
        _builder(name, name, key, now, now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _Authority(certificate, key)


def _builder(subject: x509.Name, issuer: x509.Name, key: Key, now: datetime, end: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(end)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _read_authority(folder: Path) -> _Authority:
    key = serialization.load_pem_private_key((folder / "tls.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey), "the authority has a key that this module wrote"
    return _Authority(x509.load_pem_x509_certificate((folder / "tls.crt").read_bytes()), key)


def _write(folder: Path, certificate: x509.Certificate, key: Key, bundle: bytes) -> None:
    _write_files(folder, {"tls.key": _private_pem(key), "ca.crt": bundle, "tls.crt": _pem(certificate)})


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, mode=0o700)
    for name, content in files.items():
        with open(folder / name, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private_pem(key: Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
