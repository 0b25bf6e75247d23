"""X.509 identities of services (SPIFFE) for mutual TLS between processes, read again whenever their files change.

The folder has one folder per identity with the files that cert-manager writes: `tls.crt` (the certificate chain),
`tls.key` and `ca.crt` (the authorities to trust). A certificate names its owner twice: as the SPIFFE id
`spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/NAME`, by which a server knows its caller, and as the DNS name
`NAME.TRUST-DOMAIN`, by which a client knows the server.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from drw.kernel.errors import ConfigError, Forbidden

log = logging.getLogger(__name__)

FILES = ("tls.crt", "tls.key", "ca.crt")
CHECK_SECONDS = 1.0
"""Interval at which a client looks for new files."""
READ_ATTEMPTS = 5
"""Attempts to read files that change while they are read."""
MAX_BYTES = 1 << 20

Version = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Identity:
    """The certificate chain, the private key and the trusted authorities of one identity, as PEM."""

    certificate: bytes
    key: bytes
    authorities: bytes
    version: Version
    """Differs after each change of the files."""


class Identities:
    """The identities that a process may use, and the names of its peers."""

    def __init__(self, folder: Path, trust_domain: str, namespace: str) -> None:
        self._folder = folder
        self._trust_domain = trust_domain
        self._id = re.compile(f"spiffe://{re.escape(trust_domain)}/ns/{re.escape(namespace)}/sa/([a-z0-9-]{{1,63}})")
        self._read: dict[str, tuple[float, Identity]] = {}

    def get(self, name: str) -> Identity:
        """Return an identity; the last one that could be read, if its files are gone or change right now.

        Raises:
            ConfigError: its files cannot be read, and never could.
        """
        checked_at, known = self._read.get(name, (0.0, None))
        now = time.monotonic()
        if known is not None and now - checked_at < CHECK_SECONDS:
            return known
        try:
            identity = self._load(name, known)
        except OSError as error:
            if known is None:
                raise ConfigError(f"the identity {name!r} cannot be read: {error}") from error
            log.error("the identity %r cannot be read again, and stays as it is: %s", name, error)
            identity = known
        self._read[name] = now, identity
        return identity

    def channel_credentials(self, identity: Identity) -> grpc.ChannelCredentials:
        """Return the credentials of a client."""
        return grpc.ssl_channel_credentials(identity.authorities, identity.key, identity.certificate)

    def server_credentials(self, name: str) -> grpc.ServerCredentials:
        """Return the credentials of a server, which takes new files with the next connection.

        Every client must have a certificate.
        """
        used = self.get(name)

        def newer() -> Any:  # None: no change
            nonlocal used
            identity = self.get(name)
            if identity.version == used.version:
                return None
            used = identity
            return _server_configuration(identity)

        return grpc.dynamic_ssl_server_credentials(
            _server_configuration(used), newer, require_client_authentication=True
        )

    def server_name(self, name: str) -> str:
        """Return the DNS name in the certificate of a server."""
        return f"{label(name)}.{self._trust_domain}"

    def caller(self, auth_context: Mapping[str, Iterable[bytes]]) -> str:
        """Return the name of the peer of a connection.

        Raises:
            Forbidden: its certificate does not have exactly one SPIFFE id of this trust domain and namespace.
        """
        names = [name.decode(errors="replace") for name in auth_context.get("x509_subject_alternative_name", ())]
        ids = [name for name in names if name.startswith("spiffe:")]
        match = self._id.fullmatch(ids[0]) if len(ids) == 1 else None
        if match is None:
            raise Forbidden("the certificate of the caller has no SPIFFE id of this platform")
        return match[1].replace("-", "_")

    def _load(self, name: str, known: Identity | None) -> Identity:
        folder = self._folder / label(name)
        for _ in range(READ_ATTEMPTS):
            with suppress(FileNotFoundError):  # also while the folder is replaced
                version = _version(folder)
                if known is not None and version == known.version:
                    return known
                certificate, key, authorities = [_read(folder / file) for file in FILES]
                if _version(folder) == version:
                    return Identity(certificate, key, authorities, version)
        raise OSError(f"{folder} is incomplete, or changes while it is read")


def label(name: str) -> str:
    """Return the name of a service as DNS and Kubernetes take it."""
    return name.replace("_", "-")


def spiffe_id(trust_domain: str, namespace: str, name: str) -> str:
    """Return the SPIFFE id of a service, in the form that Istio and cert-manager use."""
    return f"spiffe://{trust_domain}/ns/{namespace}/sa/{label(name)}"


def _server_configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(identity.key, identity.certificate)], root_certificates=identity.authorities
    )


def _version(folder: Path) -> Version:
    stats = [(folder / file).stat() for file in FILES]
    return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES)
